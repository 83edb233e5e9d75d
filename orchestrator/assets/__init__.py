"""Models and texts for the quickstart and the tests: fetched by pin, verified, converted once.

Run files name them ``asset:NAME``; ``catalogue.py`` lists them, ``cache.py`` puts them in place.
"""

from orchestrator.assets.archives import AssetError
from orchestrator.assets.asset import Asset
from orchestrator.assets.cache import cache_folder, fetch_all, resolve
from orchestrator.assets.catalogue import ASSETS

__all__ = ["ASSETS", "Asset", "AssetError", "cache_folder", "fetch_all", "resolve"]
