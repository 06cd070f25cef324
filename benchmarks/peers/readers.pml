/* SPDX-License-Identifier: GPL-2.0-only */
/* readers(N): one thread stores x, N load it. */
byte x;

active proctype writer() { x = 1 }

active [N] proctype reader()
{
	byte value;
	value = x
}
