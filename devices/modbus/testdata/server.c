/* A Modbus slave by libmodbus: the same registers as server.py.
 *   server rtu DEVICE SLAVE        server tcp PORT SLAVE
 * It says "ready" when it can be asked, and ends when it is killed. */
#include <errno.h>
#include <modbus/modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 230.1 in all four orders. Not by modbus_set_float_abcd() and its like: in libmodbus 3.1.6
 * they mean the bytes in memory, not on the wire. */
static void floats(uint16_t *h)
{
	float f = 230.1f;
	uint32_t i;
	uint16_t ab, cd;
	memcpy(&i, &f, sizeof i);
	ab = i >> 16;
	cd = i & 0xFFFF;
	h[0] = h[3] = ab;
	h[1] = h[2] = cd;
	h[4] = h[7] = (uint16_t)(ab << 8 | ab >> 8);
	h[5] = h[6] = (uint16_t)(cd << 8 | cd >> 8);
}

static modbus_mapping_t *registers(int slave)
{
	modbus_mapping_t *m = modbus_mapping_new(20, 20, 300, 10);
	uint16_t *h = m->tab_registers;
	int i;
	for (i = 0; i < 20; i++) {
		m->tab_bits[i] = i % 3 == 0;
		m->tab_input_bits[i] = i % 2 == 0;
	}
	for (i = 0; i < 10; i++)
		m->tab_input_registers[i] = 7 * i;
	for (i = 0; i < 100; i++)
		h[i] = 100 * slave + i;
	floats(h + 200);
	MODBUS_SET_INT32_TO_INT16(h, 208, -123456);
	MODBUS_SET_INT64_TO_INT16(h, 210, 1234567890123LL);
	h[214] = (uint16_t)-40;
	h[215] = 0x1234;
	{
		static const char text[16] = "HOLDFAST 1";
		for (i = 0; i < 8; i++)
			h[216 + i] = (uint16_t)((unsigned char)text[2 * i] << 8 | (unsigned char)text[2 * i + 1]);
	}
	return m;
}

static int serve(modbus_t *ctx, modbus_mapping_t *m)
{
	uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
	int n = modbus_receive(ctx, query);
	if (n > 0)
		modbus_reply(ctx, query, n, m);
	return n >= 0 || errno == EMBBADCRC || errno == ETIMEDOUT || errno == EMBBADDATA || errno == EMBBADEXC;
}

int main(int argc, char **argv)
{
	modbus_mapping_t *m;
	modbus_t *ctx;
	int slave, listener;
	if (argc != 4)
		return 2;
	slave = atoi(argv[3]);
	m = registers(slave);
	if (!strcmp(argv[1], "rtu")) {
		ctx = modbus_new_rtu(argv[2], 115200, 'N', 8, 1);
		modbus_set_slave(ctx, slave);
		/* After a request to another slave libmodbus waits so long for that one's answer,
		 * and takes the next request for it: not when that slave is dead. */
		modbus_set_response_timeout(ctx, 0, 20000);
		if (modbus_connect(ctx)) {
			perror(argv[2]);
			return 1;
		}
		puts("ready");
		fflush(stdout);
		while (serve(ctx, m))
			;
		perror("receive");
		return 1;
	}
	ctx = modbus_new_tcp("127.0.0.1", atoi(argv[2]));
	listener = modbus_tcp_listen(ctx, 1);
	if (listener < 0) {
		perror("listen");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		if (modbus_tcp_accept(ctx, &listener) < 0)
			return 1;
		while (serve(ctx, m))
			;
		modbus_close(ctx);
	}
}
