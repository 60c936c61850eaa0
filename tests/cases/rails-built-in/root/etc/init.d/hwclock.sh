#!/bin/sh
### BEGIN INIT INFO
# Provides:          hwclock.sh
# Required-Start:    $remote_fs
# Default-Start:     2 3 4 5
### END INIT INFO
