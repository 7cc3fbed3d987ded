"""Two CPU devices on any machine, so that tests of several devices always run."""

import os

os.environ.setdefault("RPO_CPU_DEVICES", "2")
