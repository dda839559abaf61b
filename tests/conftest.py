"""How hypothesis searches: without deadlines, which depend on the machine, and the same in each run of CI."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gateway-ci", settings.get_profile("gateway"), derandomize=True)
settings.load_profile("gateway-ci" if "CI" in os.environ else "gateway")
