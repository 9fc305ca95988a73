"""CLoVE pretraining: unlabelled images in, a backbone checkpoint out."""

import sysconfig
from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent  # of the packages: a checkout, a job's copy of it, or site-packages
# PLACE: what is written goes below it where no option says otherwise. PRINTED: what papers print, and what run_all.sh
# installs by hash; a wheel brings it into the environment's own folder.
if (ROOT / "results").is_dir():
    PLACE, PRINTED = ROOT, ROOT / "results"
else:
    PLACE, PRINTED = Path(), Path(sysconfig.get_path("data")) / "share" / "clove-suite"
