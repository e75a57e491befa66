"""Conversations with a model at a terminal or through a pipe, by `gptcli chat`.

transcript.py   what was said, of which the model reads as much as its context holds
messages.py     the transcript of a model that answers messages, by its own chat template
story.py        the transcript of a base model, which continues a text
reply.py        the text that the model writes, as it becomes certain
dialogue.py     one model, one transcript, and the settings of sampling; it knows no terminal
files.py        transcripts in files
commands.py     commands that begin with a slash
interface.py    lines from a pipe, and the interface of a terminal, by prompt_toolkit
loop.py         reading, answering and obeying commands until the input ends
"""
