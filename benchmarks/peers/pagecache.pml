/* SPDX-License-Identifier: GPL-2.0-only */
/* pc(PAGES, READERS): a filler, and readers that must not see a page before its data. With BUG they do not look whether it
 * is up to date. */
bool present[PAGES], uptodate[PAGES], locked[PAGES];
byte data[PAGES];

active proctype fill()
{
	byte i;
	for (i : 0 .. PAGES - 1) {
		atomic { !locked[i] -> locked[i] = true };
		present[i] = true;
		data[i] = i + 1;
		uptodate[i] = true;
		locked[i] = false
	}
}

active [READERS] proctype read()
{
	byte i;
	for (i : 0 .. PAGES - 1) {
		if
		:: present[i] ->
#ifndef BUG
			if
			:: uptodate[i] -> skip
			:: else -> atomic { !locked[i] -> locked[i] = true }; locked[i] = false
			fi;
#endif
			assert(data[i] == i + 1)
		:: else -> skip
		fi
	}
}
