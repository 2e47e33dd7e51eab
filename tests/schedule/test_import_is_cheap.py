"""A configuration can be built and checked without loading torch."""

import subprocess
import sys
from pathlib import Path

import cq.schedule.dps


def test_planners_check_a_run_without_torch() -> None:
    names = sorted(path.stem for path in Path(cq.schedule.dps.__file__).parent.glob("*.py"))
    program = "".join(f"import cq.schedule.{name}\n" for name in names if name != "__init__") + (
        "from cq.schedule.dps import DPS\n"
        "DPS(interval=20, num_groups=None, min_group=None, max_group=None).check(250)\n"
        "import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
