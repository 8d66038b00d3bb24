"""All data sets: public benchmarks (one file each), own data, data sets of the Hub, and generated scenes."""

from . import ade20k as ade20k
from . import camvid as camvid
from . import cityscapes as cityscapes
from . import coco_stuff as coco_stuff
