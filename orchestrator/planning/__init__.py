"""What a run takes before it is started: memory, placement, wire, time, disk; and afterwards."""
