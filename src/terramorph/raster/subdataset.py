"""Parts of files that hold several rasters (NetCDF, HDF4, HDF5, TIFF pages), by GDAL's names of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from terramorph.errors import RasterError, raised_as
from terramorph.raster.dataset import gdal_session

_NAME = re.compile(r"(?i)(?:netcdf|hdf4(?:_\w+)?|hdf5|gtiff_dir|nitf_im|zarr|bag|gpkg):.+")


def is_subdataset(spec: str | Path) -> bool:
    """Whether a name is one that GDAL gives a part of a file, such as NETCDF:"scene.nc":B4."""
    return _NAME.fullmatch(str(spec)) is not None


@contextmanager
def as_vrt(name: str) -> Iterator[tuple[Path, list[Path]]]:
    """A VRT of a part of a file, in a temporary folder that is gone after the block.

    Args:
        name: as `gdalinfo` lists it.

    Yields:
        The VRT, and the files that hold the part.

    Raises:
        RasterError: if there is no such part.
    """
    with TemporaryDirectory(prefix="terramorph-part-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "part.vrt")

        def none(reason: str) -> RasterError:
            return RasterError(f"{name} cannot be opened ({reason}); gdalinfo lists the parts of a file.")

        with (
            raised_as(none, RasterioError, CPLE_BaseError, OSError, ValueError),
            gdal_session(),
            rasterio.open(name) as dataset,
        ):
            files = [Path(file) for file in dataset.files]
            rasterio.shutil.copy(dataset, path, driver="VRT")
        yield path, files
