"""The clinician's pages, served inside the cloud process."""

from cloud.portal.server import run_portal

__all__ = ["run_portal"]
