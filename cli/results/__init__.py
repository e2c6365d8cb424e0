"""What a job left, brought to a folder of the user's: downloads, the base under an adapter, one merged model.

No name that the service gives leads out of the folder, and no file is there before its hash is right.
"""
