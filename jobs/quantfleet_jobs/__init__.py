"""Composition: one file per job, and the command line. The only package that knows all others."""

import os

# Ray reads this when it is first imported. A local Ray on few cores runs more worker processes than cores, by design, and
# would say so every few seconds between the lines of the progress display.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "PYTHON worker processes have been started on node")
