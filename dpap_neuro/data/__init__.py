"""Event-camera recordings by name (`known`), or in a folder of one's own (`folder`), opened as rasters (`opening`)."""

from dpap_neuro.data.binning import Binning, Recordings, binning_of, rasters
from dpap_neuro.data.folder import Folder, FolderSettings, parse_sensor
from dpap_neuro.data.known import DATASETS, DataSet, Defaults, dataset, from_objects, register
from dpap_neuro.data.opening import SPLITS, Both, Opened, check_split, open_both, open_dataset, spread
from dpap_neuro.data.splits import LabelledRecordings, every_nth, groups_of
from dpap_neuro.data.stored import Rasters, Stored

__all__ = [
    "DATASETS",
    "SPLITS",
    "Binning",
    "Both",
    "DataSet",
    "Defaults",
    "Folder",
    "FolderSettings",
    "LabelledRecordings",
    "Opened",
    "Rasters",
    "Recordings",
    "Stored",
    "binning_of",
    "check_split",
    "dataset",
    "every_nth",
    "from_objects",
    "groups_of",
    "open_both",
    "open_dataset",
    "parse_sensor",
    "rasters",
    "register",
    "spread",
]
