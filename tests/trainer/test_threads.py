"""Threads that wait sleep, unless the user has said otherwise."""

import os
import subprocess
import sys

import pytest

from tome_lightning.trainer.threads import SPINS, WAITING, wait_asleep


def test_threads_sleep_while_they_wait():
    environ: dict[str, str] = {}
    wait_asleep(environ)
    assert environ == {"GOMP_SPINCOUNT": SPINS}


@pytest.mark.parametrize("name", WAITING)
def test_what_the_user_has_said_stays(name):
    environ = {name: "1"}
    wait_asleep(environ)
    assert environ == {name: "1"}


def test_it_is_said_before_torch_is_there():
    """OpenMP reads its environment when it is loaded: what comes later is not heard."""
    code = (
        "import os, sys\n"
        "def audit(event, args):\n"
        "    if event == 'import' and args[0] == 'torch':\n"
        "        print(os.environ.get('GOMP_SPINCOUNT')); sys.stdout.flush(); os._exit(0)\n"
        "sys.addaudithook(audit)\n"
        "from tome_lightning.__main__ import main; main(['fit', '--recipe', 'quickstart'])"
    )
    environ = {name: value for name, value in os.environ.items() if name not in WAITING}
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert run.stdout.split() == [SPINS]
