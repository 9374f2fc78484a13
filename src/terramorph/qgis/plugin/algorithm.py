"""Processing algorithms: rasters translated by the program terramorph."""

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingParameterEnum,
    QgsProcessingParameterExtent,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProviderRegistry,
    QgsRunProcess,
)

from .command import CommandError, run

_HELP = """<p>{what}</p>
<p><b>Input raster</b>: a layer of a file (a GeoTIFF, a VRT, an archive of tiles), whose bands are those that the model
takes.</p>
<p><b>Model</b>: a file (model.safetensors or .onnx), the folder of a training run, or the name of a published model
(<code>terramorph models</code> lists them).</p>
<p><b>Metres a pixel</b>: at which the model sees the ground; needed where those of the raster are far from the
model's.</p>
<p><b>Only there</b>: a rectangle of it.</p>
<p>Windows are blended, so the result has no seams. What was cancelled goes on from where it was when it is run again
with the same output. The result is generated, not observed; its tags say by which model.</p>"""


class _Algorithm(QgsProcessingAlgorithm):
    """Base of both algorithms: their parameters, and how they run."""

    def createInstance(self):
        return type(self)()

    def shortHelpString(self):
        return " ".join(_HELP.format(what=self.what).split())  # QGIS makes a paragraph of each line

    def initAlgorithm(self, configuration=None):
        number = QgsProcessingParameterNumber.Type.Double
        self.addParameter(QgsProcessingParameterRasterLayer("INPUT", "Input raster"))
        self.addParameter(QgsProcessingParameterString("MODEL", "Model", "town-sat2map"))
        self.addParameter(
            QgsProcessingParameterNumber("RESOLUTION", "Metres a pixel", number, None, True, 0.0001, 100_000.0)
        )
        self.addParameter(QgsProcessingParameterExtent("AREA", "Only there", None, True))
        self.addParameter(
            QgsProcessingParameterString("MORE", "Further options, as on the command line", None, False, True)
        )
        self.add_output()

    def processAlgorithm(self, parameters, context, feedback):
        layer = self.parameterAsRasterLayer(parameters, "INPUT", context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, "INPUT"))
        output = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        try:
            source = file_of(layer)
        except CommandError as error:
            raise QgsProcessingException(str(error)) from error
        words = [
            "translate",
            self.parameterAsString(parameters, "MODEL", context),
            source,
            output,
            "--progress",
            "json",
            "--overwrite",  # QGIS has asked
            *self.kind(parameters, context),
        ]
        if parameters.get("RESOLUTION") is not None:
            words += ["--resolution", repr(self.parameterAsDouble(parameters, "RESOLUTION", context))]
        if parameters.get("AREA"):
            degrees = QgsCoordinateReferenceSystem("EPSG:4326")
            box = self.parameterAsExtent(parameters, "AREA", context, degrees)
            sides = (box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum())
            words.append("--area=" + ",".join(f"{side:.9f}" for side in sides))
        words += QgsRunProcess.splitCommand(self.parameterAsString(parameters, "MORE", context) or "")
        try:
            if not run(words, feedback):
                feedback.pushInfo(f"Cancelled; run it again with the output {output} to go on from here.")
                return {}
        except CommandError as error:
            raise QgsProcessingException(str(error)) from error
        return {"OUTPUT": output}


class TranslateAlgorithm(_Algorithm):
    """A raster into a raster."""

    what = "Translates a raster into the picture that a model makes of it, or into the map's classes."

    def name(self):
        return "translate"

    def displayName(self):
        return "Translate a raster"

    def add_output(self):
        kinds = ["Picture", "Map classes, with a legend"]
        self.addParameter(QgsProcessingParameterEnum("KIND", "What is made", kinds, False, 0))
        self.addParameter(QgsProcessingParameterRasterDestination("OUTPUT", "Translated raster"))

    def kind(self, parameters, context):
        return ["--to", ("cog", "classes")[self.parameterAsEnum(parameters, "KIND", context)]]


class AreasAlgorithm(_Algorithm):
    """A raster into polygons."""

    what = "Translates a raster into a map, and the map into polygons of its classes, each with a confidence."

    def name(self):
        return "areas"

    def displayName(self):
        return "Translate a raster into areas"

    def add_output(self):
        self.addParameter(QgsProcessingParameterVectorDestination("OUTPUT", "Areas"))

    def kind(self, parameters, context):
        return ["--to", "polygons"]


def file_of(layer):
    """Return the file of a raster layer.

    Raises:
        CommandError: If it is of a server.
    """
    provider = layer.dataProvider().name()
    if provider != "gdal":
        raise CommandError(f"{layer.name()} is not a file (its provider is {provider}); save it as a GeoTIFF first.")
    return QgsProviderRegistry.instance().decodeUri(provider, layer.source()).get("path") or layer.source()
