"""`tunesmith demo`: a real model, a real dataset and a real job, told step by step."""
