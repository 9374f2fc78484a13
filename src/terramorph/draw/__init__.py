"""A page on which a map is drawn and the photograph of that place appears, computed by the visitor's own browser."""

from terramorph.draw.onefile import write_one_file
from terramorph.draw.site import WebModel, check_folder, check_models, check_network, site_files, write_site

__all__ = ["WebModel", "check_folder", "check_models", "check_network", "site_files", "write_one_file", "write_site"]
