"""The data sets there are: public benchmarks, one file each, own data, data sets of the Hub, generated scenes."""

from . import ade20k as ade20k
from . import camvid as camvid
from . import cityscapes as cityscapes
from . import coco_stuff as coco_stuff
