from __future__ import annotations

import pytest
from pydantic import ValidationError, model_validator

from spacevllm.config import Config, ConfigError, load_config, parse_config, save_config


class Train(Config):
    learning_rate: float = 1e-3
    steps: int = 10


class Whole(Config):
    name: str = "demo"
    train: Train = Train()
    optional: Train | None = None


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_defaults_file_and_overrides_in_that_order(tmp_path):
    path = write(tmp_path, "name: mine\ntrain:\n  steps: 20\n")
    assert load_config(Whole) == Whole()
    loaded = load_config(Whole, path, ["train.learning_rate=1e-4", "optional.steps=3"])
    assert loaded == Whole(name="mine", train=Train(steps=20, learning_rate=1e-4), optional=Train(steps=3))


def test_an_empty_file_means_defaults(tmp_path):
    assert load_config(Whole, write(tmp_path, "# nothing yet\n")) == Whole()


def test_saved_config_reads_back_with_its_defaults(tmp_path):
    save_config(Whole(train=Train(steps=7)), tmp_path / "c.yaml")
    assert "learning_rate: 0.001" in (tmp_path / "c.yaml").read_text()
    assert load_config(Whole, tmp_path / "c.yaml") == Whole(train=Train(steps=7))


def test_a_config_is_frozen():
    with pytest.raises(ValidationError):
        Whole().name = "other"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rat=1", r"train\.learning_rat: unknown key, did you mean 'learning_rate'\?"),
        ("train.zzz=1", r"unknown key; known keys: learning_rate, steps"),
        ("nam=x", r"nam: unknown key, did you mean 'name'\?"),
        ("optional.step=1", r"did you mean 'steps'\?"),
        ("train.steps=many", r"train\.steps: .*\(got 'many'\)"),
        ("train.steps", r"not of the form section\.key=value"),
        ("=1", r"not of the form"),
        ("name=[1", r"not valid YAML"),
        ("name.inner=1", r"name\.inner|name: "),
    ],
)
def test_a_bad_override_is_one_clear_line(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Whole, None, [override])
    assert "\n" not in str(caught.value)


def test_an_override_below_a_value_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="name is a value, not a section"):
        load_config(Whole, write(tmp_path, "name: mine\n"), ["name.inner=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("name: [1", "not valid YAML"), ("- a\n- b\n", "expected a mapping of sections, found a list")],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Whole, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read config .*missing\.yaml: No such file"):
        load_config(Whole, tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot read config"):
        load_config(Whole, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError):
        load_config(Whole, tmp_path / "binary.yaml")


def test_parse_config_names_its_origin():
    with pytest.raises(ConfigError, match=r"^a request: train\.steps: "):
        parse_config(Whole, {"train": {"steps": None}}, origin="a request")


def test_a_rule_that_spans_keys_speaks_for_itself_and_keeps_its_notes():
    class Range(Config):
        low: int = 0
        high: int = 1

        @model_validator(mode="after")
        def _in_order(self) -> Range:
            if self.low > self.high:
                error = ConfigError("low is above high")
                error.add_note("low: 0")
                raise error
            return self

    with pytest.raises(ConfigError) as caught:
        parse_config(Range, {"low": 2}, origin="a request")
    assert str(caught.value) == "a request: low is above high" and caught.value.__notes__ == ["low: 0"]
