"""The same measurements for other systems: nats-py, redis-py and pyzmq.

others.py SYSTEM ROW ADDRESS SECONDS      prints the same JSON as work_sync.py
"""

import asyncio
import json
import os
import sys
import threading
import time

WARM_UP = 0.2
PAYLOAD = b'x' * 100
ROUND = 50


def measure(rounds, finish):
    def run(seconds):
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            done += rounds()
        finish()
        return done

    run(WARM_UP)
    cpu, began = time.process_time(), time.perf_counter()
    done = run(SECONDS)
    return done, time.perf_counter() - began, time.process_time() - cpu


def repeated(one):
    def rounds():
        for _ in range(ROUND):
            one()
        return ROUND

    return rounds


def counted(count):
    while count() == 0:
        time.sleep(0.01)
    time.sleep(WARM_UP)
    before, cpu, began = count(), time.process_time(), time.perf_counter()
    time.sleep(SECONDS)
    after, cpu_after, ended = count(), time.process_time(), time.perf_counter()
    return after - before, ended - began, cpu_after - cpu


def in_a_child(work):
    """Runs the other side of a measurement in a separate process."""
    if os.fork() == 0:
        parent = os.getppid()
        threading.Thread(target=lambda: wait_for_the_end_of(parent), daemon=True).start()
        work()
        os._exit(0)


def wait_for_the_end_of(parent):
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)


class Redis:
    def __init__(self, address):
        import redis

        self.connect = lambda: redis.Redis(unix_socket_path=address)

    def publish(self):
        # The client has no publication without an answer; a pipeline is the closest equivalent.
        client = self.connect()

        def rounds():
            pipeline = client.pipeline(transaction=False)
            for _ in range(ROUND):
                pipeline.publish('bench', PAYLOAD)
            pipeline.execute()
            return ROUND

        return measure(rounds, lambda: None)

    def acknowledged(self):
        client = self.connect()
        return measure(repeated(lambda: client.publish('bench', PAYLOAD)), lambda: None)

    def receive(self):
        subscription, counter = self.connect().pubsub(), [0]
        subscription.subscribe('bench')
        next(subscription.listen())

        def listen():
            for _ in subscription.listen():
                counter[0] += 1

        def flood():
            client = self.connect()
            while True:
                pipeline = client.pipeline(transaction=False)
                for _ in range(1000):
                    pipeline.publish('bench', PAYLOAD)
                pipeline.execute()

        in_a_child(flood)
        threading.Thread(target=listen, daemon=True).start()
        return counted(lambda: counter[0])


class Nats:
    def __init__(self, address):
        self.address = address

    def run(self, work):
        async def main():
            import nats

            return await work(await nats.connect(self.address))

        return asyncio.run(main())

    def publish(self):
        async def work(client):
            async def run(seconds):
                done, end = 0, time.perf_counter() + seconds
                while time.perf_counter() < end:
                    for _ in range(ROUND):
                        await client.publish('bench', PAYLOAD)
                    done += ROUND
                await client.flush(60)
                return done

            await run(WARM_UP)
            cpu, began = time.process_time(), time.perf_counter()
            done = await run(SECONDS)
            return done, time.perf_counter() - began, time.process_time() - cpu

        return self.run(work)

    def receive(self):
        def flood():
            async def work(client):
                while True:
                    for _ in range(1000):
                        await client.publish('bench', PAYLOAD)
                    await client.flush(60)

            self.run(work)

        in_a_child(flood)

        async def work(client):
            count = 0

            async def on_message(_):
                nonlocal count
                count += 1

            await client.subscribe('bench', cb=on_message)
            while count == 0:
                await asyncio.sleep(0.01)
            await asyncio.sleep(WARM_UP)
            before, cpu, began = count, time.process_time(), time.perf_counter()
            await asyncio.sleep(SECONDS)
            return count - before, time.perf_counter() - began, time.process_time() - cpu

        return self.run(work)

    def call(self):
        def serve():
            async def work(client):
                async def answer(message):
                    await message.respond(b'ok')

                await client.subscribe('call', cb=answer)
                await asyncio.sleep(3600)

            self.run(work)

        in_a_child(serve)

        async def work(client):
            await asyncio.sleep(0.5)

            async def run(seconds):
                done, end = 0, time.perf_counter() + seconds
                while time.perf_counter() < end:
                    await client.request('call', b'', timeout=10)
                    done += 1
                return done

            await run(WARM_UP)
            cpu, began = time.process_time(), time.perf_counter()
            done = await run(SECONDS)
            return done, time.perf_counter() - began, time.process_time() - cpu

        return self.run(work)


class Zmq:
    """No broker: one process sends to the other."""

    def __init__(self, address):
        import zmq

        self.zmq, self.address = zmq, f'ipc://{address}'

    def publish(self):
        def pull():
            socket = self.zmq.Context().socket(self.zmq.PULL)
            socket.bind(self.address)
            while True:
                socket.recv()

        in_a_child(pull)
        socket = self.zmq.Context().socket(self.zmq.PUSH)
        socket.connect(self.address)
        return measure(repeated(lambda: socket.send(PAYLOAD)), lambda: None)

    def receive(self):
        def push():
            socket = self.zmq.Context().socket(self.zmq.PUSH)
            socket.connect(self.address)
            while True:
                socket.send(PAYLOAD)

        in_a_child(push)
        socket, counter = self.zmq.Context().socket(self.zmq.PULL), [0]
        socket.bind(self.address)

        def receive():
            while True:
                socket.recv()
                counter[0] += 1

        threading.Thread(target=receive, daemon=True).start()
        return counted(lambda: counter[0])

    def call(self):
        def serve():
            socket = self.zmq.Context().socket(self.zmq.REP)
            socket.bind(self.address)
            while True:
                socket.recv()
                socket.send(b'ok')

        in_a_child(serve)
        socket = self.zmq.Context().socket(self.zmq.REQ)
        socket.connect(self.address)
        return measure(repeated(lambda: (socket.send(b''), socket.recv())), lambda: None)


system, row, address, SECONDS = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
operations, seconds, processor = getattr(globals()[system](address), row)()
print(json.dumps({'operations': operations, 'seconds': seconds, 'processor': processor}), flush=True)
os.kill(os.getpid(), 9)
