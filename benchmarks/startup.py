"""How fast the command answers: `edgekit --help` and `edgekit inspect` against `import click`."""

from __future__ import annotations

import sys

from _common import (
    EDGEKIT,
    HERE,
    PYTHON,
    interleaved,
    print_conditions,
    print_table,
    ratios,
    run,
    runs_option,
    seconds,
    show,
    verdict,
)

TARGET = 3.0
DATA = HERE.parent / "tests" / "data"
BASE = "`python -c 'import click'`"
HELP = "`edgekit --help`"
INSPECTED = ("int8.tflite", "two_inputs.keras")


def main() -> None:
    runs = runs_option(__doc__, default=15)
    commands = {
        BASE: (PYTHON, "-c", "import click"),
        HELP: (EDGEKIT, "--help"),
        **{f"`edgekit inspect {name}`": (EDGEKIT, "inspect", DATA / name) for name in INSPECTED},
        "`python -c 'import tensorflow'`": (PYTHON, "-c", "import tensorflow"),
    }
    # TensorFlow is here to compare with; three times are enough for its seconds.
    *light, tensorflow = commands
    times = interleaved(
        {name: lambda c=commands[name]: seconds(*c) * 1e3 for name in light}, runs, warmup=True
    )
    rows = []
    for name in light:
        against = ratios(times[name], times[BASE])
        target = verdict(against, TARGET) if name == HELP else ""
        rows.append([name, show(times[name], " ms", 0), show(against), target])
    slow = interleaved({tensorflow: lambda: seconds(*commands[tensorflow]) * 1e3}, min(runs, 3))
    rows.append(
        [f"{tensorflow} (which none of them does)", show(slow[tensorflow], " ms", 0), "", ""]
    )

    print_table("Start-up", ["command", "wall time", "ratio", "target"], rows)
    print_conditions(runs, "click", "tensorflow")
    for arguments in (["--help"], *(["inspect", DATA / name] for name in INSPECTED)):
        if imports_tensorflow(*arguments):
            sys.exit(f"edgekit {' '.join(map(str, arguments))} imports TensorFlow")


def imports_tensorflow(*arguments: object) -> bool:
    """Whether the command loads TensorFlow, by the interpreter's own list of imports."""
    imported = run(PYTHON, "-X", "importtime", "-m", "edgekit", *arguments).stderr
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    if "edgekit" not in modules:
        sys.exit("the list of imports cannot be read")
    return bool(modules & {"tensorflow", "keras", "tf_keras"})


if __name__ == "__main__":
    main()
