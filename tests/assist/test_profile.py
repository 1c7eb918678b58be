import re
from pathlib import Path

import pytest

from smallhold.assist.policy import load_profile
from smallhold.assist.profile import digest_layers, read_layers, shipped_profiles
from smallhold.errors import PolicyError, RecipeError, SmallholdError

HEAD = 'format = 1\nname = "x"\nversion = "1"\nnote = "n"\n'
BASE = HEAD + 'extends = "base-clinical"\n'
DEFAULTS = '[defaults]\nA0 = "auto"\nA1 = "auto"\nA2 = "auto"\nA3 = "confirm_one"\nA4 = "forbid"\nA5 = "forbid"\n'
READ = '[clauses.c]\nsource = "s"\nsummary = "t"\nstatus = "read"\n'
DRAFT = READ.replace("read", "draft")


def rule(kind: str, when: str, effect: str | None = None, *, clauses: str = '["c"]', obligations: str = "[]") -> str:
    line = "" if effect is None else f'effect = "{effect}"\n'
    return f'[[{kind}]]\nid = "r"\nwhen = {when}\n{line}clauses = {clauses}\nobligations = {obligations}\n'


def write(folder: Path, text: str, name: str = "x.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


RECIPE_ERRORS = {
    "not toml": ("[", "profile x.toml cannot be read"),
    "unknown key": (BASE + "retention = 3\n", "key: unknown 'retention'"),
    "typo in a key": (BASE + READ.replace("summary", "sumary"), "unknown 'sumary'; did you mean 'summary'?"),
    "typo in a table": (BASE.replace("extends", "extend"), "unknown 'extend'; did you mean 'extends'?"),
    "missing key": ('format = 1\nname = "x"\nversion = "1"\n', "key 'note' is missing"),
    "later format": (BASE.replace("format = 1", "format = 2"), "format 2 is not supported: expected 1"),
    "unknown source": (BASE + "refuses_sources = ['continous']\n", "'continous'; did you mean 'continuous'?"),
    "sources is no list": (BASE + "refuses_sources = 'discrete'\n", "refuses_sources: expected a list of texts"),
    "all sources": (BASE + "refuses_sources = ['discrete', 'continuous']\n", "can never be used"),
    "empty text": (BASE.replace('"n"', '" "'), "note must be a text that is not empty"),
    "unknown parent": (HEAD + 'extends = "base-clinicl"\n', "unknown 'base-clinicl'; did you mean 'base-clinical'?"),
    "unknown action in defaults": (BASE + '[defaults]\nA6 = "auto"\n', "action class: unknown 'A6'"),
    "unknown effect": (BASE + READ + rule("restrict", "{}", "forbit"), "unknown 'forbit'; did you mean 'forbid'?"),
    "unknown fact": (BASE + READ + rule("restrict", "{ actoin = 'A3' }", "forbid"), "did you mean 'action'?"),
    "unknown value": (
        BASE + READ + rule("restrict", "{ consent = 'witheld' }", "forbid"),
        "consent: expected given, unknown, withheld, got 'witheld'; did you mean 'withheld'?",
    ),
    "number for a boolean": (
        BASE + READ + rule("restrict", "{ is_stale = 1 }", "forbid"),
        "expected false, true, got 1",
    ),
    "boolean for a word": (BASE + READ + rule("restrict", "{ action = true }", "forbid"), "got True"),
    "empty list": (BASE + READ + rule("restrict", "{ action = [] }", "forbid"), "an empty list matches nothing"),
    "when is no table": (BASE + READ + rule("restrict", "3", "forbid"), "expected a table of facts, got 3"),
    "no clause": (BASE + READ + rule("restrict", "{}", "forbid", clauses="[]"), "must cite at least one clause"),
    "clauses is no list": (BASE + READ + rule("restrict", "{}", "forbid", clauses="'c'"), "expected a list of texts"),
    "no effect": (BASE + READ + rule("restrict", "{}"), "key 'effect' is missing"),
    "effect on a duty": (BASE + READ + rule("oblige", "{}", "forbid"), "an oblige rule has no effect"),
    "unknown duty": (
        BASE + READ + rule("oblige", "{}", obligations="['discloseai']"),
        "unknown 'discloseai'; did you mean 'disclose_ai'?",
    ),
    "value on a flag": (BASE + READ + rule("oblige", "{}", obligations="['log=3']"), "log takes no value, got '3'"),
    "words for a number": (
        BASE + READ + rule("oblige", "{}", obligations="['retain_days=long']"),
        "retain_days takes a whole number, for example retain_days=184, got 'long'",
    ),
    "empty residency": (BASE + READ + rule("oblige", "{}", obligations="['residency=']"), "residency takes a list"),
    "status": (BASE + READ.replace('"read"', '"reed"'), "unknown 'reed'; did you mean 'read'?"),
    "rule id twice": (
        BASE + READ + 2 * rule("restrict", "{ action = 'A3' }", "forbid"),
        "rule ids used twice: r",
    ),
    "single brackets": (BASE + READ + '[restrict]\nid = "r"\n', re.escape("write [[restrict]] with double brackets")),
}

POLICY_ERRORS = {
    "unknown clause": (
        BASE + READ + rule("restrict", "{ action = 'A3' }", "forbid", clauses="['c', 'base-jurnal']"),
        "rule 'r' cites unknown clause 'base-jurnal'; did you mean 'base-journal'?",
    ),
    "unused clause": (BASE + READ, "clauses that no rule cites: c"),
    "clause defined again": (BASE + READ.replace(".c]", ".base-journal]"), "'base-journal' is already defined"),
    "not total": (HEAD + DEFAULTS.replace('A4 = "forbid"\n', ""), "profile x is not total: no default effect for A4"),
    "weaker default": (BASE + '[defaults]\nA3 = "auto"\n', "default of A3 would weaken confirm_one to auto"),
    "permit that permits nothing": (
        BASE + READ + rule("permit", "{ action = ['A3', 'A4'] }", "confirm_one"),
        "rule 'r' permits nothing: confirm_one is not weaker than the default of A3",
    ),
    "draft permission": (
        BASE + DRAFT + rule("permit", "{ action = 'A4' }", "confirm_one"),
        "because of clauses that nobody has read in their source: r",
    ),
    "not monotone in confidence": (
        BASE + READ + rule("restrict", "{ action = 'A2', confidence = 'high' }", "confirm_two"),
        "not monotone: confidence from high to low weakens confirm_two to confirm_one when action = A2",
    ),
    "not monotone in an expired order": (
        HEAD + DEFAULTS + READ + rule("permit", "{ action = 'A4', standing_order = 'expired' }", "confirm_one"),
        "not monotone: standing_order from valid to expired weakens forbid to confirm_one",
    ),
    "automatic treatment without clearance": (
        HEAD + DEFAULTS + READ + rule("permit", "{ action = 'A4', standing_order = 'valid' }", "auto"),
        "A4 without a person needs a valid standing order and a cleared device: got auto",
    ),
    "veto window is not a person": (
        HEAD + DEFAULTS + READ + rule("permit", "{ action = 'A4', standing_order = 'valid' }", "notify_with_veto"),
        "A4 without a person needs .*: got notify_with_veto",
    ),
    "a new treatment": (
        HEAD + DEFAULTS + READ + rule("permit", "{ action = 'A5' }", "confirm_two"),
        "A5 starts a new treatment and must be forbidden: got confirm_two",
    ),
    "a suppressed alarm": (
        BASE + READ + rule("restrict", "{ action = 'A1', consent = 'withheld' }", "forbid"),
        r"a HIGH alert \(A1\) must be auto, nothing may suppress it: got forbid when .*withheld.*priority = high",
    ),
    "a suppressed emergency": (
        BASE + READ + rule("restrict", "{ action = 'A1', is_emergency = true, has_abstained = true }", "confirm_one"),
        "nothing may suppress it: got confirm_one",
    ),
}


@pytest.mark.parametrize("case", RECIPE_ERRORS)
def test_a_wrong_entry_is_named(case: str, tmp_path: Path) -> None:
    text, message = RECIPE_ERRORS[case]
    with pytest.raises(RecipeError, match=message):
        load_profile(write(tmp_path, text))


@pytest.mark.parametrize("case", POLICY_ERRORS)
def test_an_unsafe_profile_does_not_load(case: str, tmp_path: Path) -> None:
    text, message = POLICY_ERRORS[case]
    with pytest.raises(PolicyError, match=message):
        load_profile(write(tmp_path, text))


def test_an_absent_profile_names_those_that_exist() -> None:
    with pytest.raises(RecipeError, match="unknown 'ukk'; did you mean 'uk'") as raised:
        load_profile("ukk")
    assert "eu-closed-loop" in (raised.value.hint or "")
    with pytest.raises(RecipeError, match=r"nowhere\.toml does not exist"):
        load_profile("nowhere.toml")


def test_profiles_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path, HEAD + 'extends = "b.toml"\n', "a.toml")
    write(tmp_path, HEAD + 'extends = "a.toml"\n', "b.toml")
    with pytest.raises(PolicyError, match=r"extends itself through a.toml, b.toml"):
        load_profile(tmp_path / "a.toml")


def test_residency_that_has_nothing_in_common_is_refused(tmp_path: Path) -> None:
    text = HEAD + 'extends = "eu"\n' + READ + rule("oblige", "{ action = 'A2' }", obligations="['residency=US']")
    with pytest.raises(PolicyError, match="obligations conflict: residency=EEA and residency=US"):
        load_profile(write(tmp_path, text))


def test_a_site_that_must_erase_before_it_may_is_refused(tmp_path: Path) -> None:
    text = (
        HEAD + 'extends = "eu"\n' + READ + rule("oblige", "{ action = 'A2' }", obligations="['erase_within_days=90']")
    )
    with pytest.raises(PolicyError, match=r"retain_days=184 and erase_within_days=90: what must be kept would be era"):
        load_profile(write(tmp_path, text))
    longer = load_profile(write(tmp_path, text.replace("=90", "=400")))
    assert any("erase_within_days=400" in outcome.obligations for outcome in longer.outcomes)


def test_two_regions_that_keep_data_at_home_cannot_be_one_profile(tmp_path: Path) -> None:
    text = HEAD + 'extends = "ru"\n' + READ + rule("oblige", "{}", obligations="['residency=CN']")
    with pytest.raises(PolicyError, match="residency=RU and residency=CN"):
        load_profile(write(tmp_path, text))


def test_a_profile_may_refuse_a_kind_of_source(tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match="us-cds-nondevice refuses a continuous source: got a continuous one"
    ) as raised:
        load_profile("us-cds-nondevice", source="continuous")
    assert "source='discrete'" in (raised.value.hint or "")
    with pytest.raises(PolicyError, match="was not told which source it is for"):
        load_profile("us-cds-nondevice")
    assert load_profile("us-cds-nondevice", source="discrete").name == "us-cds-nondevice"
    # What a profile extends refuses for it, too.
    site = write(tmp_path, HEAD + 'extends = "us-cds-nondevice"\n')
    with pytest.raises(PolicyError, match="profile x refuses a continuous source"):
        load_profile(site, source="continuous")
    with pytest.raises(PolicyError, match="expected continuous or discrete, got 'steady'"):
        load_profile("eu", source="steady")  # type: ignore[arg-type]


def test_what_a_profile_refuses_is_part_of_its_digest(tmp_path: Path) -> None:
    one = digest_layers(read_layers(write(tmp_path, BASE)))
    assert digest_layers(read_layers(write(tmp_path, BASE + 'refuses_sources = ["continuous"]\n'))) != one


def test_a_site_can_extend_a_region_from_its_own_file(tmp_path: Path) -> None:
    text = HEAD + 'extends = "eu"\n' + READ
    text += rule("restrict", "{ action = 'A2' }", "confirm_one", obligations="['retain_days=3650', 'residency=EEA,CH']")
    profile = load_profile(write(tmp_path, text))
    assert [layer.name for layer in profile.layers] == ["base-clinical", "eu", "x"]
    assert profile.name == "x"


def test_draft_permissions_load_only_on_purpose() -> None:
    with pytest.raises(PolicyError, match="eu-closed-loop: rules that permit something because of clauses that nobody"):
        load_profile("eu-closed-loop")
    assert load_profile("eu-closed-loop", allow_draft_permissions=True).draft_permissions == ("eu-closed-loop",)


def test_a_permit_that_also_cites_a_read_clause_is_no_draft(tmp_path: Path) -> None:
    both = READ + DRAFT.replace(".c]", ".d]")
    text = (
        BASE + both + rule("permit", "{ action = 'A4', standing_order = 'valid' }", "confirm_one", clauses='["c", "d"]')
    )
    assert load_profile(write(tmp_path, text)).draft_permissions == ()


def test_a_draft_may_tighten(tmp_path: Path) -> None:
    load_profile(write(tmp_path, BASE + DRAFT + rule("restrict", "{ action = 'A2' }", "confirm_two")))


def test_the_digest_follows_the_meaning_and_not_the_comments(tmp_path: Path) -> None:
    text = BASE + READ + rule("restrict", "{ action = 'A2' }", "confirm_one")
    one = digest_layers(read_layers(write(tmp_path, text)))
    assert digest_layers(read_layers(write(tmp_path, "# note\n" + text))) == one
    assert digest_layers(read_layers(write(tmp_path, text.replace("confirm_one", "confirm_two")))) != one
    assert load_profile(write(tmp_path, text)).digest == one


def test_shipped_profiles_say_what_they_are() -> None:
    assert shipped_profiles() == (
        *("base-clinical", "cn", "eu", "eu-closed-loop", "in", "ru", "uk", "us", "us-cds-nondevice"),
    )
    for name in shipped_profiles():
        (*_, layer) = read_layers(name)
        assert layer.name == name
        assert "to be reviewed by counsel" in layer.note


def test_every_error_of_a_profile_is_ours(tmp_path: Path) -> None:
    for text in ("name = 3\n", 'format = "1"\n', HEAD + "clauses = 3\n", HEAD + "extends = 3\n", "[[permit]]\n"):
        with pytest.raises(SmallholdError):
            load_profile(write(tmp_path, text))
