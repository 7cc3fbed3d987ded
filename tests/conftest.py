"""What all tests share: two CPU devices on any machine, and what makes compiling cheaper.

Compiling takes most of the time here. One cache of compiled programs lives as long as the run of
the tests and serves all its workers and child processes. Unless `RPO_TESTS_OPTIMIZE=1` asks for the
programs as users get them, XLA leaves its expensive passes out, and writes the code of fused loops
by its older generator: a step then compiles in 40% of the time, RPO's iteration in a quarter.
"""

import atexit
import os
import shutil
import signal
import tempfile

os.environ.setdefault("RPO_CPU_DEVICES", "2")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rpo-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    # A shell starts what it puts in the background deaf to Ctrl-C, and so would be what we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
if os.environ.get("RPO_TESTS_OPTIMIZE", "0") == "0":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if "fusion_emitters" not in os.environ.get("XLA_FLAGS", ""):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = flags.strip()
