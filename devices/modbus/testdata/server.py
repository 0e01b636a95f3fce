"""Modbus slaves by pymodbus: the same registers as server.c, for several slaves.

    server.py rtu DEVICE SLAVE...        server.py tcp PORT SLAVE...

It says "ready" when it can be asked, and ends when it is killed."""
import asyncio
import sys

from pymodbus.constants import Endian
from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.payload import BinaryPayloadBuilder
from pymodbus.server.async_io import ModbusSerialServer, ModbusTcpServer
from pymodbus.transaction import ModbusRtuFramer, ModbusSocketFramer


def typed(method, value, byteorder=Endian.Big, wordorder=Endian.Big):
    builder = BinaryPayloadBuilder(byteorder=byteorder, wordorder=wordorder)
    getattr(builder, method)(value)
    return builder.to_registers()


def swapped(registers):
    """The bytes of each register the other way round: pymodbus' byteorder does not mean that."""
    return [(r & 0xFF) << 8 | r >> 8 for r in registers]


def slave(number):
    h = [100 * number + i for i in range(100)] + [0] * 200
    abcd, cdab = typed("add_32bit_float", 230.1), typed("add_32bit_float", 230.1, wordorder=Endian.Little)
    for at, registers in {
        200: abcd,
        202: cdab,
        204: swapped(abcd),
        206: swapped(cdab),
        208: typed("add_32bit_int", -123456),
        210: typed("add_64bit_uint", 1234567890123),
        214: typed("add_16bit_int", -40),
        215: [0x1234],
        216: typed("add_string", "HOLDFAST 1\0\0\0\0\0\0"),
    }.items():
        h[at : at + len(registers)] = registers
    return ModbusSlaveContext(
        co=ModbusSequentialDataBlock(0, [i % 3 == 0 for i in range(20)]),
        di=ModbusSequentialDataBlock(0, [i % 2 == 0 for i in range(20)]),
        hr=ModbusSequentialDataBlock(0, h),
        ir=ModbusSequentialDataBlock(0, [7 * i for i in range(10)]),
        zero_mode=True,
    )


async def main(how, where, *numbers):
    context = ModbusServerContext(slaves={int(n): slave(int(n)) for n in numbers}, single=False)
    if how == "tcp":
        server = ModbusTcpServer(context, framer=ModbusSocketFramer, address=("127.0.0.1", int(where)), allow_reuse_address=True)
        serving = asyncio.ensure_future(server.serve_forever())
        await server.serving
    else:
        server = ModbusSerialServer(
            context, framer=ModbusRtuFramer, port=where, baudrate=115200, parity="N", stopbits=1, bytesize=8, ignore_missing_slaves=True
        )
        await server.start()
        serving = asyncio.ensure_future(server.serve_forever())
    print("ready", flush=True)
    await serving


asyncio.run(main(*sys.argv[1:]))
