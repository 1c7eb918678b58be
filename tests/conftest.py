"""Small real models for every stage: random weights of full size in effect, so that a wrong sign or axis shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

CREATED = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class SmallBundle:
    """A signed bundle made of a random model and a small simulated ward, and what it was made of."""

    path: Path
    trusted_keys: Path
    checkpoint: Path
    stays: list  # of smallhold.sectors.hospital.stays.Stay


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(hidden_size=32, ...) writes a checkpoint of random weights with byte tokenizer and encoder."""
    pytest.importorskip("torch", reason="checkpoints are written with torch, the extra 'train'")
    import torch

    from smallhold.learn.checkpoint import save_checkpoint
    from smallhold.learn.model import SignalModel, TrunkConfig
    from smallhold.teach.vocabulary import byte_tokenizer

    def make(*, num_channels: int = 22, num_static: int = 3, seed: int = 0, **changes: object) -> Path:
        shape = {
            "vocab_size": 259,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 64,
            **changes,
        }
        torch.manual_seed(seed)
        model = SignalModel(TrunkConfig(**shape), num_channels, num_static)  # type: ignore[arg-type]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2:  # gain 1 a matrix: attention is far from uniform, logits are far from zero
                    scale = 1.0 if "embed_tokens" in name else parameter.shape[1] ** -0.5
                    torch.nn.init.normal_(parameter, std=scale)
                else:
                    torch.nn.init.uniform_(parameter, 0.5, 1.5)
        folder = tmp_path_factory.mktemp("checkpoint")
        save_checkpoint(model.eval(), folder, {"seed": seed})
        (folder / "tokenizer.json").write_text(byte_tokenizer().to_str())
        return folder

    return make


@pytest.fixture(scope="session")
def quantize() -> Callable[[Path], Path]:
    """quantize(folder) writes the 8-bit twin of a checkpoint beside it."""

    def make(folder: Path) -> Path:
        from smallhold.compress.quantize import quantize_checkpoint

        target = folder.with_name(folder.name + "-quantized")
        if not target.exists():
            quantize_checkpoint(folder, target)
        return target

    return make


@pytest.fixture(scope="session")
def small_bundle(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path], quantize: Callable[[Path], Path]
) -> SmallBundle:
    """A whole icu-risk bundle: 8-bit random model, trees grown on 150 simulated patients, fitted on the same ones."""
    import numpy as np

    from smallhold.bundle.assemble import BundleRequest, build_bundle
    from smallhold.decide.signal import encode_stays
    from smallhold.device.trust import generate_private_key, save_public_key
    from smallhold.sectors.hospital.icu_risk import static_features
    from smallhold.sectors.hospital.simulator import simulate_ward
    from smallhold.teach.train import fit_signal_spec, make_task
    from smallhold.teach.trees import TreeConfig, fit_trees

    folder = tmp_path_factory.mktemp("small_bundle")
    stays = simulate_ward(150, 0, 48)
    spec = fit_signal_spec(stays)
    channels = encode_stays(spec, [(s.minute, s.code, s.value) for s in stays], 48)
    static = np.stack([static_features(stay) for stay in stays])
    died = np.array([bool(stay.died) for stay in stays])
    trees = fit_trees(channels, static, died, TreeConfig(iterations=8, leaves=6), 0, lambda done, total: None)
    (folder / "trees.npz").write_bytes(trees.to_bytes())
    checkpoint = make_checkpoint(num_channels=spec.num_channels, num_static=len(spec.static), seed=3)
    key = generate_private_key()
    (folder / "keys").mkdir()
    save_public_key(key.public_key(), folder / "keys" / "publisher.pem")
    request = BundleRequest(
        checkpoint=quantize(checkpoint),
        trees=folder / "trees.npz",
        task=make_task(spec),
        name="icu-risk-small",
        version="1.0.0",
        expires=None,
        training_data=("simulated_ward",),
        licences={},
        card="# Random weights, simulated patients. Not a medical device.\n",
        max_error=0.1,
    )
    build_bundle(
        request,
        stays,
        folder / "bundle",
        is_simulated=True,
        created=CREATED,
        key=key,
        progress=lambda caption, done, total: None,
    )
    return SmallBundle(folder / "bundle", folder / "keys", checkpoint, stays)
