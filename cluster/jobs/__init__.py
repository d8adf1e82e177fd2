"""Jobs on the cluster: submit, watch, stop, and keep their traces."""
