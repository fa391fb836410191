"""The code that MLflow runs when it loads a logged model; see ``logged_model``."""

import warnings

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from bratsml.tracking.logged_model import SegmentationModel

with warnings.catch_warnings():
    # MLflow asks for type hints, and can check none that fit an array
    warnings.simplefilter("ignore", UserWarning)

    class ServedModel(SegmentationModel, PythonModel):
        """What ``mlflow.pyfunc.load_model`` wraps."""

    set_model(ServedModel())
