"""Run by tests/commands.py in a forked process: a file as `python FILE ARGUMENTS`, its output to two other files."""

import os
import runpy
import sys

script, arguments, stdout, stderr = globals()["GIVEN"]
os.setsid()  # as a shell starts it: what it leaves behind is not in the group of pytest
for stream, path in ((0, os.devnull), (1, stdout), (2, stderr)):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), stream)
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
