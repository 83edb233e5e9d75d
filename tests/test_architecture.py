"""The repository's own rules, as far as no other tool checks them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("losses", "teachers", "orchestrator")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
RUN_FILES = sorted((ROOT / "configs").rglob("*.yaml"))


def relative(path):
    return str(path.relative_to(ROOT))


def test_import_contracts_hold():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    arguments = [sys.executable, "-c", command, "--no-cache"]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_is_short_and_documented(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    assert len(text.splitlines()) <= 300, "over 300 lines: split it by meaning"
    futures = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert "__future__" not in {n.module for n in futures}, "hides shapes from jaxtyping"


def test_every_folder_of_code_is_a_package_but_the_tests_are_none():
    folders = {path.parent for path in MODULES}
    assert [relative(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []
    assert [relative(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


@pytest.mark.parametrize("path", RUN_FILES, ids=relative)
def test_run_file_is_a_yaml_mapping(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_readme_names_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


@pytest.mark.parametrize("package", ["losses", "teachers"])
@pytest.mark.parametrize("form", ["package", "namespace", "module"])
def test_a_foreign_package_of_the_same_name_is_refused(tmp_path, package, form):
    """A namespace folder (no __init__.py) loses against a real package, so it is harmless."""
    if form == "module":
        (tmp_path / f"{package}.py").touch()
    else:
        (tmp_path / package).mkdir()
    if form == "package":
        (tmp_path / package / "__init__.py").touch()
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import orchestrator"
    command = [sys.executable, "-c", path]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if form == "namespace":
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode == 1
        assert f"ImportError: `import {package}` finds {tmp_path / package}" in result.stderr


def test_a_missing_sibling_is_refused(tmp_path):
    (tmp_path / "orchestrator").mkdir()
    source = ROOT / "orchestrator" / "__init__.py"
    (tmp_path / "orchestrator" / "__init__.py").write_text(source.read_text())
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import orchestrator"
    command = [sys.executable, "-S", "-c", path]  # -S: without an installed tutelage
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "ImportError: `import losses` finds nothing" in result.stderr
