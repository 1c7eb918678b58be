from dataclasses import asdict, replace

import pytest

from smallhold.compress.shrink_recipe import read_shrink_recipe
from smallhold.errors import RecipeError
from smallhold.teach.endpoint.recipe import read_label_recipe
from smallhold.teach.joint_recipe import JointRecipe, is_joint, read_joint_recipe
from smallhold.teach.pretrain_recipe import read_pretrain_recipe
from smallhold.teach.recipe import parse_recipe, read_recipe, recipe_of_run
from smallhold.teach.recipe_file import parse_toml, shipped_recipes
from smallhold.teach.specialist_recipe import is_specialists, read_specialist_recipe

SMALLEST = '[task]\nsector = "hospital"\nname = "icu-risk"\n[bundle]\nname = "x"\n'


def test_the_smallest_recipe_takes_every_default():
    recipe = parse_recipe(SMALLEST, where="r")
    assert (recipe.seed, recipe.bundle.version, recipe.teacher.hours) == (0, "1.0.0", (6, 12, 24, 48))


def test_every_shipped_recipe_parses_and_survives_being_written_into_a_run():
    assert "icu-risk" in shipped_recipes()
    for name in ("icu-risk",):
        recipe = read_recipe(name)
        assert (
            recipe_of_run(asdict(recipe) | {"teacher": listed(recipe.teacher), "student": listed(recipe.student)})
            == recipe
        )


def test_every_shipped_recipe_is_of_one_kind_and_parses():
    readers = {
        "base": read_pretrain_recipe,
        "base-languages": read_pretrain_recipe,
        "hospital": read_joint_recipe,
        "finance": read_joint_recipe,
        "specialists": read_specialist_recipe,
    }
    readers |= {"label-support-intent": read_label_recipe, "hospital-small": read_shrink_recipe}
    for name in shipped_recipes():
        readers.get(name, read_recipe)(name)
        assert is_joint(name) == (readers.get(name) is read_joint_recipe)
        assert is_specialists(name) == (readers.get(name) is read_specialist_recipe)


def listed(config):
    """As JSON gives it back: tuples have become lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def test_a_recipe_file_is_read_like_a_shipped_one(tmp_path):
    (tmp_path / "mine.toml").write_text(SMALLEST)
    assert read_recipe(tmp_path / "mine.toml") == parse_recipe(SMALLEST, where="elsewhere")


def test_whole_numbers_may_stand_where_fractions_are_meant():
    assert parse_recipe(SMALLEST + "[student]\nepochs = 3\n", where="r").student.epochs == 3.0


def test_the_digest_tells_recipes_apart():
    recipe = parse_recipe(SMALLEST, where="r")
    assert recipe.digest == parse_recipe(SMALLEST, where="other").digest
    assert recipe.digest != replace(recipe, seed=1).digest


@pytest.mark.parametrize(
    ("ngrams", "message"),
    [
        ("strength = 0.0", "a strength above 0"),
        ("ratio_power = 3.0", r"a ratio_power in \[0, 2\]"),
        ("char_buckets = 0", "one or more buckets"),
        ("keeps_punctuation = 1", "expected bool, got 1"),
    ],
)
def test_impossible_n_grams_are_refused_before_anything_is_fitted(ngrams, message):
    text = f'sector = "x"\nbase = ""\n[[text]]\ntask = "y"\nngrams = {{ {ngrams} }}\n[bundle]\nname = "x"\n'
    with pytest.raises(RecipeError, match=rf"^recipe r, text\[0\], ngrams.*{message}"):
        parse_toml(JointRecipe, text, where="r")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALLEST + "[student]\nepoch = 3\n", r"^recipe r, student: unknown key 'epoch'; did you mean 'epochs'\?$"),
        (SMALLEST + "[studnet]\nepochs = 3\n", r"^recipe r: unknown key 'studnet'; did you mean 'student'\?$"),
        (SMALLEST + "[zzz]\n", r"^recipe r: unknown key 'zzz'; known keys: task, bundle, data, teacher"),
        (SMALLEST + '[student]\nbatch_size = "64"\n', r"^recipe r, student, batch_size: expected int, got '64'$"),
        (SMALLEST + "[student]\nbatch_size = 6.4\n", r"^recipe r, student, batch_size: expected int, got 6\.4$"),
        (SMALLEST + "[student]\nbatch_size = true\n", r"^recipe r, student, batch_size: expected int, got True$"),
        (SMALLEST + "[student]\nepochs = true\n", r"^recipe r, student, epochs: expected float, got True$"),
        (SMALLEST + "[student]\nswap = 0.3\n", r"^recipe r, student, swap: expected a list, got 0\.3$"),
        (SMALLEST + '[student]\nswap = [0.3, "x"]\n', r"^recipe r, student, swap\[1\]: expected float, got 'x'$"),
        (SMALLEST + "student = 3\n", r"^recipe r, bundle: unknown key 'student'; known keys: name, version"),
        ("student = 3\n" + SMALLEST, r"^recipe r, student: expected a table, got 3$"),
        (SMALLEST.replace('name = "x"\n', ""), r"^recipe r, bundle: key 'name' is missing$"),
        ('[bundle]\nname = "x"\n', r"^recipe r: key 'task' is missing$"),
        ("seed = -1\n" + SMALLEST, r"^recipe r, seed: expected a number of 0 or more, got -1$"),
        (
            SMALLEST + "[student]\ndistill = 1.5\n",
            r"student: student\.distill: expected a share in \[0, 1\), got 1\.5$",
        ),
        (SMALLEST + "[student]\nswap = []\n", r"student\.swap: expected at least one probability"),
        (SMALLEST + "[teacher]\nfolds = 1\n", r"^recipe r, teacher: teacher\.folds: expected at least 2, got 1$"),
        (
            SMALLEST + "[teacher]\nhours = [12, 6]\n",
            r"teacher\.hours: expected ascending positive hours, got \[12, 6\]$",
        ),
        (SMALLEST + "[teacher]\nhours = []\n", r"teacher\.hours: expected ascending positive hours, got \[\]$"),
        (SMALLEST + "[student\n", r"^recipe r: not valid TOML: "),
        ("a = " + 100_000 * "[", r"^recipe r: not valid TOML: "),
        (SMALLEST + "[student]\nepochs = 0\n", r"student\.epochs: expected a positive number, got 0"),
        (SMALLEST + "[student]\nepochs = nan\n", r"student, epochs: expected a finite number, got nan"),
        (SMALLEST + "[student]\nbatch_size = 0\n", r"student\.batch_size: expected 1 to 4096, got 0"),
        (SMALLEST + "[student]\ndropout = nan\n", r"student, dropout: expected a finite number, got nan"),
        (SMALLEST + "[student]\nswap = [1.5]\n", r"student\.swap: expected probabilities in \(0, 1\], got \[1\.5\]"),
        (
            SMALLEST + "[model]\nnum_attention_heads = 3\n",
            r"model: hidden_size 128 must be a multiple of twice num_attention_heads 3",
        ),
        (SMALLEST + "[model]\nhidden_size = 0\n", r"model\.hidden_size: expected at least 1, got 0"),
        (SMALLEST + "[teacher]\nleaves = 1\n", r"teacher\.leaves: expected at least 2, got 1"),
        (SMALLEST + "[teacher]\niterations = 0\n", r"teacher\.iterations: expected at least 1, got 0"),
        (SMALLEST + "[bundle]\n", r"^recipe r: not valid TOML: "),
        (SMALLEST + "max_error = 0.0\n", r"bundle\.max_error: expected a share in \(0, 1\), got 0\.0"),
        (SMALLEST + 'version = "one"\n', r"bundle\.version: expected a version such as 1\.2\.3, got 'one'"),
        (
            SMALLEST + "[optimizer]\nlearning_rate = 0.0\n",
            r"optimizer\.learning_rate: expected a positive number, got 0\.0",
        ),
        (SMALLEST + "[data]\nsimulated_stays = 0\n", r"data\.simulated_stays: expected at least 1, got 0"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_place_and_what_was_expected(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text, where="r")


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"absent\.toml: no such file") as raised:
        read_recipe(tmp_path / "absent.toml")
    assert raised.value.hint == "smallhold teach list"
    with pytest.raises(
        RecipeError, match=r"recipe 'icu-rsk': expected a \.toml file or one of base, base-languages, finance, hosp"
    ):
        read_recipe("icu-rsk")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"r\.toml: not valid TOML"):
        read_recipe(tmp_path / "r.toml")


def test_a_recipe_of_another_version_in_a_run_is_refused():
    value = asdict(parse_recipe(SMALLEST, where="r"))
    with pytest.raises(RecipeError, match=r"^run\.json, recipe: unknown key 'colour'"):
        recipe_of_run({**value, "colour": "red"})
