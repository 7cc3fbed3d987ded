"""The persistent compilation cache: a program compiled once is loaded the next time."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import jax


def cache_directory() -> Path:
    """`JAX_COMPILATION_CACHE_DIR`, or the user's cache directory of this platform."""
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ".cache"
    return base / "rpo" / "jax"


def enable_compilation_cache() -> Path | None:
    """Keeps compiled programs in `cache_directory()`, or where the process has chosen to.

    Returns:
        the directory, or None if it cannot be written: then every start compiles anew.
    """
    configured = jax.config.values["jax_compilation_cache_dir"]
    directory = Path(configured) if configured else cache_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError):
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    jax.config.update("jax_raise_persistent_cache_errors", False)
    return directory
