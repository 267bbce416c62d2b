"""`python -m sentinel` is the same as `sentinel`."""

import sys

from sentinel.cli import main

sys.exit(main())
