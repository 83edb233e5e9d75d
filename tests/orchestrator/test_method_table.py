"""The table of methods: complete, and true about the bytes a signal takes."""

import re

import pytest
from jsonschema import Draft202012Validator, ValidationError

from losses.methods import method_class, method_names
from orchestrator.config import RunConfig
from orchestrator.config.json_schema import json_schema
from orchestrator.config.method_table import MethodEntry, method_table
from orchestrator.config.schema import fields_of
from orchestrator.config.shipped import shipped_run_files
from orchestrator.config.yaml_text import read_yaml
from teachers.teacher import Teacher

ENTRIES = {entry.name: entry for entry in method_table()}
VALIDATOR = Draft202012Validator(json_schema())


def test_every_method_is_there_with_every_option():
    assert sorted(ENTRIES) == method_names()
    for name, entry in ENTRIES.items():
        assert [option.name for option in entry.options] == list(fields_of(method_class(name)))


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: entry.name)
def test_everything_is_said(entry: MethodEntry):
    assert entry.description
    assert re.search(r"arXiv:\d{4}\.\d{5}|(AAAI|ACL Findings),? 20\d\d", entry.source)
    assert [option.name for option in entry.options if not option.description] == []
    assert [option.name for option in entry.options if not option.type] == []


def test_an_option():
    (option,) = (o for o in ENTRIES["alm"].options if o.name == "merge_threshold")
    assert option.type == "a number, at least 0, at most 1, or null"
    assert (option.default, option.required) == (0.1, False)


def formula(text: str, hidden_size: int, k: int, num_bytes: float) -> float:
    """Bytes per token with the default options, in float32: what stands first in the text.

    ``num_bytes`` of the document are in one token.
    """
    first = re.split("[,;:]", text)[0]
    values = {"k": k, "× hidden size": hidden_size, "× bytes": num_bytes, "": 1}
    terms = [re.fullmatch(r"(\d+) ?(.*)", term.strip()).groups() for term in first.split("+")]
    return sum(int(factor) * values[unit] for factor, unit in terms)


@pytest.mark.parametrize("name", method_names())
def test_bytes_per_token_is_what_a_signal_takes(name, language_model, documents):
    defaults = {option.name: option.default for option in ENTRIES[name].options}
    fewer = {"k": 64} if "k" in defaults else {}  # the toy has fewer tokens than are listed
    model, method = language_model("llama"), method_class(name)(**fewer)
    document = documents[-1]  # every token but the start token is scored, so all rows are kept
    [[signal]] = Teacher(model, [method]).signals([document])
    num_tokens = len(model.encode([document])[0])
    size = model.model.config.hidden_size
    per_token = document.num_scored_bytes / num_tokens
    claimed = formula(ENTRIES[name].bytes_per_token, size, fewer.get("k", 0), per_token)
    assert signal.num_bytes == pytest.approx(claimed * num_tokens, rel=2 / num_tokens)


def refused(data: object) -> str:
    with pytest.raises(ValidationError) as caught:
        VALIDATOR.validate(data)
    return caught.value.json_path


class TestJsonSchema:
    """What an editor knows."""

    def test_is_a_schema(self):
        Draft202012Validator.check_schema(json_schema())

    @pytest.mark.parametrize("name", sorted(shipped_run_files()))
    def test_shipped_run_files_fit(self, name: str):
        VALIDATOR.validate(read_yaml(shipped_run_files()[name]))

    @pytest.mark.parametrize("name", sorted(shipped_run_files()))
    def test_what_it_refuses(self, name: str):
        data = read_yaml(shipped_run_files()[name])
        assert refused(data | {"trian": {}}) == "$"
        assert refused(data | {"train": {"max_steps": 0}}) == "$.train.max_steps"
        assert refused(data | {"train": {"max_step": 3}}) == "$.train"
        teacher = data["teachers"][0]
        for method in ({"name": "kl", "tau": 1}, {"name": "lk"}, {"weight": 1}, "kl"):
            wrong = [{**teacher, "methods": [method]}]
            assert refused(data | {"teachers": wrong}) == "$.teachers[0].methods[0]"

    def test_deepspeed_is_a_mapping_or_a_path(self):
        data = read_yaml(shipped_run_files()["smoke.yaml"])
        VALIDATOR.validate(data | {"deepspeed": "zero.json"})
        assert refused(data | {"deepspeed": 3}) == "$.deepspeed"

    def test_every_key_is_documented(self):
        schema = json_schema()
        parts = {"run file": schema, **schema["$defs"]}
        parts |= {form["title"]: form for form in schema["$defs"]["MethodConfig"]["oneOf"]}
        for title, part in parts.items():
            for key, value in part.get("properties", {}).items():
                target = schema["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
                assert value.get("description", target.get("description")), f"{title}.{key}"
        assert set(RunConfig.model_fields) == set(schema["properties"])
        assert {form["title"] for form in parts["MethodConfig"]["oneOf"]} == set(method_names())
