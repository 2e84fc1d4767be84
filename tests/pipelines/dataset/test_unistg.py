"""The shipped sample from end to end: every source, synthesis, shards and the card; then again, with nothing to do."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser

import pytest
import yaml

from jobs.common import CONFIGS
from pipelines.core import storage
from pipelines.dataset.unistg import UnistgConfig, prepare, run
from pipelines.media.manifest import data_set_media, read_records
from spacevllm.config import ConfigError, parse_config


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The shipped configuration, in another folder."""
    root = tmp_path_factory.mktemp("sample")
    text = (CONFIGS / "unistg_sample.yaml").read_text().replace("runs/", f"{root}/")
    tree = yaml.safe_load(text) | {"tracking": {"enabled": False}}
    tree["sample"]["num_videos"] = 8
    return parse_config(UnistgConfig, tree, "unistg_sample.yaml")


@pytest.fixture(scope="module")
def built(sample, ray_cluster):
    return run(sample, "spacevllm build-unistg --config jobs/configs/unistg_sample.yaml")


def test_every_source_and_every_task_is_in_it(sample, built):
    records = read_records(sample.out, "train", ["source", "task", "split"]).to_pylist()
    kinds = Counter((row["task"], row["source"]) for row in records)
    assert {source for _, source in kinds} == {source.source for source in sample.sources}
    synthesised = {source for task, source in kinds if task == "stvg"} - {"hcstvg_v1", "hcstvg_v2", "vidstg"}
    assert synthesised and synthesised <= {"didemo", "internvid", "charades_sta", "tacos"}
    assert ("vtg", "internvid") not in kinds  # captions only
    assert built["in"] == built["ok"] + built["failed"] and set(built["tasks"]) == {"stvg", "vtg", "rec", "qa"}


def test_every_medium_is_there(sample, built):
    media = data_set_media(sample.out).to_pylist()
    assert media and all(row["version"] for row in media)
    assert storage.read_table(f"{sample.out}/manifest.parquet").num_rows >= len(media)


def test_what_is_tested_is_not_trained_on(sample, built):
    dropped = [json.loads(line) for line in storage.read_text(f"{sample.out}/dropped.jsonl").splitlines()]
    reasons = Counter(row["reason"] for row in dropped)
    assert reasons == built["errors"] and len(reasons) == 2  # a clip that v2 tests, a sentence in v1 and v2
    assert {row["key"].split("/")[0] for row in dropped} == {"hcstvg_v1"}


def test_the_card_tells_all_that(sample, built):
    page = storage.read_text(f"{sample.out}/data_card.html")
    text = Text(page).text
    told = ["Uni-STG, a sample", "110,000", "320,000", "refcocog", "The paper removed about 40 %", "area jump"]
    for words in [*told, "about what a held-out split tests", "bbox: Input should be a valid list"]:
        assert words in text, words
    assert page.count("data:image/jpeg") == 7 and "could not be read" not in text
    assert "https://" not in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    markdown = storage.read_text(f"{sample.out}/data_card.md")
    assert "| temporal (VTG) |" in markdown and "(the paper: about 40%)" in markdown


def test_a_second_run_finds_everything_done(sample, built):
    before = times(sample.out)
    assert run(sample, "spacevllm build-unistg --config jobs/configs/unistg_sample.yaml") == built
    changed = {name for name, time in times(sample.out).items() if before.get(name) != time}
    assert not any(part in name for name in changed for part in ("unistg/", "stages/", "sources/annotations"))


def test_what_the_user_has_to_correct(sample, tmp_path):
    fields = sample.model_dump(mode="json") | {"sample": None}
    absent = {"source": "hcstvg_v1", "split": "train", "annotations": str(tmp_path / "none.json")}
    with pytest.raises(ConfigError, match=r"sources\[0\]: annotations .*none.json: no such file"):
        prepare(UnistgConfig.model_validate(fields | {"sources": [absent]}))
    with pytest.raises(ConfigError, match="synthesis needs captions"):
        prepare(sample.model_copy(update={"sources": sample.sources[:1]}))


def times(folder):
    return {uri: storage.version(uri) for uri in storage.find(folder)}


class Text(HTMLParser):
    """What a reader sees."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.hidden = [], 0
        self.feed(page)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.texts.append(data)
