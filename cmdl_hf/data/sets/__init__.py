"""The data sets there are: public benchmarks, one file each, own data, data sets of the Hub, generated scenes."""
