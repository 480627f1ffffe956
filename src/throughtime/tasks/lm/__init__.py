"""Language models of characters, words or bytes: train, sample, evaluate.

settings    what the command line says (loads nothing heavy)
text        files and folders -> documents
corpus      documents -> training and held-out text
vocabulary  text <-> numbers
baselines   what simple models and xz need for the held-out text
batches     numbers -> windows of [time, batch], in a fixed order
model       embedding or one-hot -> recurrent layers -> linear
schedule    budget, learning rate
training    the loop: truncated back-propagation through time
evaluation  loss, perplexity, bits per character of a text
sampling    text from a model
run         the run folder;  checkpoint: what exact resume needs
report      the first screen, lines, bar;  curve: the loss curve
commands    train, sample, evaluate: what the command line calls
"""
