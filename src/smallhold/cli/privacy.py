"""`smallhold privacy`: what has been spent of which privacy, and how much a finished job gave away."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from smallhold.cli.output import print_json

EXAMPLE = "smallhold privacy ledger runs/heart-disease"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    spending = actions.add_parser("ledger", help="what each round has spent of which budget, verified")
    spending.add_argument(
        "path", type=Path, metavar="PATH", help="a ledger, or the folder of a server, a site or a run"
    )
    spending.add_argument(
        "--key", type=Path, metavar="PEM", help="of whoever keeps the ledger; default: the one beside it"
    )
    spending.add_argument(
        "--head", metavar="SEQ:HASH", help="a head seen before: a ledger that was cut behind it is refused"
    )
    spending.add_argument("--plot", type=Path, metavar="FILE", help="draw epsilon by release into a .svg or .png")
    auditing = actions.add_parser(
        "audit", help="a lower bound on epsilon from a finished job; exit code 1 when it exceeds the claim"
    )
    auditing.add_argument("job", metavar="JOB", help="the job that was carried out")
    auditing.add_argument(
        "--run", dest="folder", type=Path, metavar="DIR", help="folder of its state; default runs/JOB"
    )
    auditing.add_argument("--data", type=Path, metavar="DIR", help="where the data sets lie; default $SMALLHOLD_DATA")
    auditing.add_argument(
        "--claim", type=float, metavar="EPSILON", help="of a record; default: what the sites' ledgers say was spent"
    )
    auditing.add_argument("--delta", type=float, help="of the claim; default: the job's")
    auditing.add_argument(
        "--guesses", type=int, metavar="N", help="even, fixed before looking; default a quarter of the records"
    )
    auditing.add_argument("--confidence", type=float, default=0.95, help="of the bound; default 0.95")
    auditing.add_argument("--seed", type=int, default=0, help="of which members are kept; default 0")
    for action in (spending, auditing):
        action.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="data as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Carry out one action."""
    return _ledger(args) if args.action == "ledger" else _audit(args)


def _ledger(args: argparse.Namespace) -> int:
    from smallhold.device.trust import load_public_key
    from smallhold.errors import InputError
    from smallhold.evaluate.picture import draw
    from smallhold.federate.spending import find_ledgers, format_spending, paint_spending, parse_head, read_spending

    paths = find_ledgers(args.path)
    if len(paths) > 1 and (args.key or args.head):
        raise InputError(f"--key, --head: belong to one ledger, and {args.path} has {len(paths)}; name one")
    key = None if args.key is None else load_public_key(args.key)
    head = None if args.head is None else parse_head(args.head)
    found = [read_spending(path, key, head) for path in paths]
    if args.plot:
        draw(args.plot, (6.0, 3.4), lambda figure: paint_spending(figure, found))
    if args.json:
        print_json({"ledgers": found})
    else:
        print("\n".join(format_spending(spending) for spending in found))
    return 0


def _audit(args: argparse.Namespace) -> int:
    from smallhold.federate.job import read_job
    from smallhold.federate.leakage import audit_run
    from smallhold.federate.local_model import Rows
    from smallhold.federate.tasks import find_federated_task
    from smallhold.sectors.splits import Split

    job = read_job(args.job)
    task = find_federated_task(job.task)
    folder = args.folder or Path("runs") / Path(args.job).stem
    training, *rest = (task.rows(job, args.data, part) for part in (Split.TRAIN, Split.CALIBRATION, Split.VALIDATION))
    held_out = {site: Rows.together([part[site] for part in rest if site in part]) for site in rest[0] | rest[1]}
    found = audit_run(
        job,
        task.model(job),
        folder,
        training,
        held_out,
        claim=args.claim,
        delta=args.delta,
        guesses=args.guesses,
        confidence=args.confidence,
        seed=args.seed,
    )
    bound, membership = found.bound, found.membership
    if args.json:
        print_json({"job": job.name, "data_set": task.data_set, "has_passed": bound.has_passed, **asdict(found)})
    else:
        claim = "no claim" if bound.claimed is None else f"claimed {bound.claimed:.4g}"
        print(
            f"{job.name}: epsilon of a record is at least {bound.epsilon:.3f} at delta {bound.delta:g}, "
            f"{bound.confidence:.0%} confidence; {claim}, by {found.claimed_by}"
        )
        print(
            f"  {bound.correct} of {bound.guesses} guesses right, {bound.canaries} records, {found.members} of them "
            f"trained on; membership AUC {membership.auc:.3f}, {membership.true_positive_rate:.1%} found at "
            f"{membership.false_positive_rate:.0%} false positives"
        )
        stands = "nothing to hold it against" if bound.claimed is None else "the claim stands, which proves nothing"
        print(f"  {stands if bound.has_passed else 'THE CLAIM IS REFUTED'}")
    return 0 if bound.has_passed else 1
