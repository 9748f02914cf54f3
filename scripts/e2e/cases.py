"""Cases that are run one after another, and counted."""

import time
import traceback

cases = []


def case(function):
    cases.append(function)
    return function


def main():
    failed = 0
    for function in cases:
        name = function.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            function()
            print(f"ok    {name} ({time.monotonic() - started:.2f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    return failed > 0
