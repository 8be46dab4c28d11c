"""What is measured: one checkpoint, its tokenizer, its chat template policy and its decoder blocks.

``spec`` says which checkpoint is meant and pins it (commit or content hash) without importing torch; ``hashing`` gives
local folders a content hash; ``load`` brings a pinned checkpoint into memory and refuses one that cannot be measured;
``subject`` is the model ready to be measured, loaded or wrapped where it is (``memory``); ``measuring`` runs it without
changing it; ``blocks`` finds the decoder blocks by structure; ``selfcheck`` proves on one short prompt that the blocks
found are the residual stream that the model itself reports. All of these need torch, so nothing is imported here.
"""
