"""Real signals at planted moments: in what a library drops, or turns into an error of its own."""

import subprocess
import sys

import pytest

PLANT = """
import os, signal, sys, time
from ft.cli import program
from ft.cli.app import app

def come():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # Python runs the handler between two lines
        pass

class Late:
    def __del__(self):
        come()

@app.command()
def plant():
    {moment}
    time.sleep(20)
    print("went on to its end")

sys.argv = ["ft", "plant"]
program()
"""
MOMENTS = {
    "in a __del__, which drops it": "Late()",
    "again and again": "[Late() for _ in range(3)]",
    "where a library makes an error of it": (
        "try:\n        come()\n    except BaseException:\n        raise ImportError('half a module')"
    ),
    "where a library goes on after any Exception": (
        "try:\n        come()\n    except Exception:\n        pass"
    ),
    "where a library goes on after anything": (
        "try:\n        come()\n    except BaseException:\n        pass"
    ),
    "in the exec of a text": "exec('come()', globals())",
    "while what was interrupted is put in order": (
        "try:\n        come()\n    finally:\n        come()"
    ),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=list(MOMENTS))
def test_ctrl_c_ends_a_command_by_its_code_and_one_word(moment):
    program = PLANT.format(moment=moment)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


def test_what_else_a_del_drops_is_still_told():
    program = PLANT.format(moment="Late.__del__ = lambda self: 1 / 0; Late(); sys.exit(0)")
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert "ZeroDivisionError" in ended.stderr
