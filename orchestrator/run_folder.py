"""The folder of one run: nothing the user has is overwritten."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from orchestrator.atomic import atomic_write_text
from orchestrator.config import RunConfig, to_yaml
from orchestrator.environment import environment
from orchestrator.errors import ConfigError


def open_run_folder(config: RunConfig, *, overwrite: bool) -> Path:
    """Make the run's folder and write the resolved run file and the environment into it.

    With ``overwrite`` a folder that holds something is moved aside, not deleted.

    Raises:
        ConfigError: the folder holds something and ``overwrite`` was not asked for.
    """
    folder = Path(config.output_dir).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ConfigError(
                f"output_dir: {folder} is not empty; choose another, or pass --overwrite to move "
                "it aside and start anew"
            )
        folder.rename(_free_name(folder))
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "resolved.yaml", to_yaml(config))
    atomic_write_text(folder / "env.json", json.dumps(asdict(environment()), indent=2) + "\n")
    return folder


def _free_name(folder: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = folder.with_name(f"{folder.name}.replaced-{stamp}")
    while name.exists():
        name = name.with_name(name.name + "+")
    return name
