"""Methods with parameters and results that are JSON, plain and coroutine functions, and notifications."""

import asyncio
import sys
import threading

import busrt

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'

with busrt.connect(address, 'example.store') as a, busrt.connect(address, 'example.customer') as b:
    store, customer = busrt.Rpc(a, codec='json'), busrt.Rpc(b, codec='json')
    stock = {'bolt': 100}
    is_told = threading.Event()

    @store.method('take')
    def take(params: dict[str, int]) -> dict[str, int]:
        for part, count in params.items():
            if stock.get(part, 0) < count:
                raise busrt.RpcException(f'not enough of {part}', code=-2)
            stock[part] -= count
        return stock

    @store.method('order')
    async def order(params: list[str]) -> str:
        await asyncio.sleep(0.01)
        return f'{len(params)} ordered'

    @customer.notification()
    def on_delivery(received: busrt.Decoded) -> None:
        print(received.sender, 'delivers', received.payload)
        is_told.set()

    print(customer.call_method('example.store', 'take', {'bolt': 3}))
    try:
        customer.call_method('example.store', 'take', {'nut': 1})
    except busrt.RpcException as e:
        print(e)
    print(customer.call_method('example.store', 'order', ['nut', 'washer']))
    store.send_notification('example.customer', {'nut': 500})
    is_told.wait(5)
