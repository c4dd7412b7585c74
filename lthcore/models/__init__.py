"""Models: the paper's networks, how any network is built, which of its weights are prunable, and initial weights."""

from lthcore.models import architectures  # noqa: F401 - it registers the networks
