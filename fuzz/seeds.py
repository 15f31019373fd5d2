#!/usr/bin/env python3
"""Writes the first inputs of the fuzz targets, from the wire vectors and from fuzz/seeds/TARGET, to fuzz/corpus/TARGET."""

import hashlib
import itertools
import json
import random
import shutil
import sys
from pathlib import Path

FUZZ = Path(__file__).parent
VECTORS = FUZZ.parent / 'tests' / 'vectors'


def vectors(file):
    return json.loads((VECTORS / f'{file}.json').read_text())['vectors']


def frames(file, kind):
    """Every frame alone, and all of them as one stream; those that cannot be read come alone."""
    valid = [bytes.fromhex(vector['bytes']) for vector in vectors(file)]
    invalid = [bytes.fromhex(vector['bytes']) for vector in vectors('invalid') if vector['frame'] == kind]
    return valid + [b''.join(valid)] + invalid


def handshakes():
    for vector in vectors('handshakes'):
        for side in ('client', 'broker'):
            yield b''.join(bytes.fromhex(step['bytes']) for step in vector['steps'] if step['from'] == side)


def sessions():
    """A broker of roomy queues, registrations of three clients, then the raw bytes of a vector as those of one of them."""
    registrations = b''.join(bytes([0, name, 0, 0]) for name in (0, 1, 2))
    for vector in vectors('requests'):
        frame = bytes.fromhex(vector['bytes'])
        if len(frame) < 250:
            padded = frame + bytes(9 * 4)
            yield b'\0\0' + registrations + bytes([7, 0, (len(frame) + 3) // 4 + 8]) + padded[:(len(frame) + 3) // 4 * 4 + 32]


def long_sessions():
    """Sessions of many steps, the same in every run: a third of them with small queues."""
    for number in range(48):
        yield random.Random(number).randbytes(2000)


INPUTS = {
    'request_decoder': lambda: frames('requests', 'request'),
    'delivery_decoder': lambda: frames('deliveries', 'delivery'),
    'handshake': handshakes,
    'rpc_envelope': lambda: [bytes.fromhex(vector['bytes']) for vector in vectors('rpc')],
    'fifo_lines': lambda: [bytes.fromhex(vector['line']) + b'\n' for vector in vectors('fifo')],
    'session': lambda: itertools.chain(sessions(), long_sessions()),
    'topic_matcher': list,
    'name_matcher': list,
}


def main():
    for target in sys.argv[1:] or INPUTS:
        corpus = FUZZ / 'corpus' / target
        corpus.mkdir(parents=True, exist_ok=True)
        for data in INPUTS[target]():
            (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
        kept = FUZZ / 'seeds' / target
        if kept.is_dir():
            for path in kept.iterdir():
                shutil.copy(path, corpus / path.name)


if __name__ == '__main__':
    main()
