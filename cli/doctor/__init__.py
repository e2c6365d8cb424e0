"""The verb `data check`: a training file looked at here, before anything is sent or paid for."""
