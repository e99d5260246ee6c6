#include "trace/trace-accel_xmmu.h"
