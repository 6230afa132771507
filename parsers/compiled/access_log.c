/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk of parsers/access_log_usual.py over many records: the same steps from piece to
 * piece, and the pieces that it has learned, found by their exact bytes. Whatever is not as
 * expected is left to Python, so that nothing here says why.
 */
#include "kernels.h"

#define MOST_PROBED 64 /* slots; a sender who makes its pieces collide gains no more */
#define LONGEST_SPAN 256 /* bytes of what is gathered into a key */
#define SLACK 8 /* bytes behind a copy, as it is made of whole words */

enum { KIND, SIDE, HTTP, DNS, URL }; /* sorts of pieces */
enum { REQUEST = 1, L7_HTTP = 2 };

/* Columns of what was found; see kernels.h. */
enum { F_KIND, F_SOURCE, F_DESTINATION, F_LABELS, F_SOURCE_PORT, F_DESTINATION_PORT, F_TIME,
       F_END, F_REQUEST, F_REQUEST_END, F_TRACE, COLUMNS };

/* A known piece: bytes to be found by, then bytes that must follow elsewhere in the record. */
struct entry {
	u64 hash;
	u32 sort; /* KIND and so on, with what else the meaning depends on */
	u32 at; /* in the arena */
	u32 head, tail; /* bytes */
	u32 traits; /* of kinds: L7_* << 16 | type << 8 | IP version */
	u32 reserved;
};
_Static_assert(sizeof(struct entry) == 32, "as ENTRY in parsers/access_log_pieces.py");

struct shape {
	i64 definitions; /* bytes that records begin with, behind the message type */
	i64 type_length; /* bytes from the value's beginning to its type's length */
	i64 node; /* bytes, behind the definitions; 0: none was seen */
	i64 bits; /* of slots */
	i64 seed;
	i64 skip_query; /* whether DNS answers are known without it */
	i64 entries, most_entries; /* in use, of which 0 is none; and how many there is room for */
	i64 arena, most_arena; /* bytes */
};

struct known {
	const struct shape *shape;
	const u8 *begin, *arena;
	const struct entry *entries;
	const u32 *slots;
};

static inline int same(const u8 *one, const u8 *other, i64 size)
{
	i64 i = 0;

	for (; i + 8 <= size; i += 8)
		if (load64(one + i) != load64(other + i))
			return 0;
	return i == size || !((load64(one + i) ^ load64(other + i)) << (64 - 8 * (size - i)));
}

static inline void store64(u8 *at, u64 value) { __builtin_memcpy(at, &value, 8); }

/* Writes, and reads, up to SLACK bytes more. */
static inline i64 copy(u8 *to, const u8 *from, i64 size)
{
	for (i64 i = 0; i < size; i += 8)
		store64(to + i, load64(from + i));
	return size;
}

static inline u64 hash_of(const u8 *bytes, i64 size, u64 seed, u32 sort)
{
	u64 hash = seed ^ ((u64)size << 32 | sort);
	i64 i = 0;

	for (; i + 8 <= size; i += 8) {
		hash = (hash ^ load64(bytes + i)) * 0x9E3779B97F4A7C15;
		hash ^= hash >> 32;
	}
	if (i < size)
		hash ^= load64(bytes + i) << (64 - 8 * (size - i));
	hash *= 0xC2B2AE3D27D4EB4F;
	hash ^= hash >> 29;
	return hash * 0x9E3779B97F4A7C15;
}

/* The number of the piece with this head; 0 when there is none. */
static inline u32 find(const struct known *known, const u8 *head, i64 size, u32 sort)
{
	u64 hash = hash_of(head, size, known->shape->seed, sort);
	u64 mask = ((u64)1 << known->shape->bits) - 1, slot = hash >> (64 - known->shape->bits);

	for (int probed = 0; probed < MOST_PROBED; probed++, slot = (slot + 1) & mask) {
		u32 number = known->slots[slot];
		const struct entry *entry = &known->entries[number];

		if (!number)
			return 0;
		if (entry->hash == hash && entry->sort == sort && entry->head == size &&
		    same(known->arena + entry->at, head, size))
			return number;
	}
	return 0;
}

/* Returns the number of the piece; 0 when there is no room, -1 when it cannot be kept. */
static inline i64 learn(struct shape *shape, u8 *arena, struct entry *known, u32 *slots,
			const u8 *piece, const i64 *told)
{
	i64 head = told[0], tail = told[1], number = shape->entries;
	u32 sort = (u32)told[2];
	u64 hash = hash_of(piece, head, shape->seed, sort);
	u64 mask = ((u64)1 << shape->bits) - 1, slot = hash >> (64 - shape->bits);

	if (number >= shape->most_entries || head + tail + SLACK > shape->most_arena - shape->arena)
		return 0;
	for (int probed = 0; slots[slot]; probed++, slot = (slot + 1) & mask) {
		const struct entry *other = &known[slots[slot]];

		if (other->hash == hash && other->sort == sort && other->head == head &&
		    same(arena + other->at, piece, head))
			break; /* what is said anew counts */
		if (probed == MOST_PROBED - 1)
			return -1; /* where nobody would find it */
	}
	copy(arena + shape->arena, piece, head + tail);
	known[number] = (struct entry){ hash, sort, (u32)shape->arena, (u32)head, (u32)tail,
					(u32)told[3], 0 };
	slots[slot] = (u32)number;
	shape->entries++;
	shape->arena += head + tail;
	return number;
}

EXPORT i64 access_log_learn(i64 *shape, u8 *arena, u8 *entries, u32 *slots, const u8 *pieces,
			    i64 count, i64 *told)
{
	for (i64 i = 0; i < count; i++) {
		i64 size = told[4 * i] + told[4 * i + 1];

		told[4 * i] = learn((struct shape *)shape, arena, (struct entry *)entries, slots,
				    pieces, told + 4 * i);
		if (!told[4 * i])
			return i;
		pieces += size;
	}
	return count;
}

/* A record: its bytes, how many, and where the walk is. */
struct cursor {
	const u8 *bytes;
	i64 end, at;
};

/* A side from its endpoint id to behind its labels; its number, 0 for what is unknown. */
static inline u32 side(const struct known *known, struct cursor *record, i64 *port)
{
	const u8 *bytes = record->bytes;
	i64 begin = record->at, end = record->end, at = begin + 1, field;
	const struct entry *entry;
	u32 number;

	if (at + 1 >= end)
		return 0;
	field = bytes[begin];
	if (field == 1) {
		at += bytes[at] < 128 ? 1 : 257 - bytes[at];
		if (at >= end)
			return 0;
		field += bytes[at++];
	}
	if (field == 2) {
		if (at >= end)
			return 0;
		at += bytes[at] + 1;
		if (at >= end)
			return 0;
		field += bytes[at++];
	}
	if (field == 3) {
		if (at >= end)
			return 0;
		at += bytes[at] + 2;
	}
	if (at >= end)
		return 0;
	number = find(known, bytes + begin, at - begin, SIDE);
	if (!number)
		return 0;
	if (bytes[at] == 0xFE) {
		if (at + 3 > end)
			return 0;
		*port = big16(bytes + at + 1);
		at += 3;
	} else if (bytes[at] < 128) {
		*port = bytes[at++];
	} else {
		return 0;
	}
	entry = &known->entries[number];
	if (entry->tail > end - at || !same(known->arena + entry->at + entry->head, bytes + at,
					    entry->tail))
		return 0;
	record->at = at + entry->tail;
	return number;
}

static inline int digits(const u8 *at, int count)
{
	int value = 0;

	while (count--) {
		u32 digit = *at++ - '0';

		if (digit > 9)
			return -1;
		value = 10 * value + (int)digit;
	}
	return value;
}

/* Nanoseconds since the epoch of YYYY-MM-DDTHH:MM:SS.F...Z; -1 for all others. */
static inline i64 time_of(const u8 *text, i64 size)
{
	static const u16 before[12] = { 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334 };
	int year, month, day, hour, minute, second, leap, longest;
	i64 days, fraction = 0;

	if (size < 22 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' ||
	    text[16] != ':' || text[19] != '.' || text[size - 1] != 'Z')
		return -1;
	year = digits(text, 4);
	month = digits(text + 5, 2);
	day = digits(text + 8, 2);
	hour = digits(text + 11, 2);
	minute = digits(text + 14, 2);
	second = digits(text + 17, 2);
	/* Until 2261, as nanoseconds of 64 bits end in 2262. */
	if (year < 1970 || year > 2261 || month < 1 || month > 12 || day < 1 || hour < 0 ||
	    hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59)
		return -1;
	leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
	longest = month == 2 ? 28 + leap : 30 + ((month + (month > 7)) & 1);
	if (day > longest)
		return -1;
	for (i64 i = 20; i < size - 1; i++) {
		u32 digit = text[i] - '0';

		if (digit > 9)
			return -1;
		if (i < 29)
			fraction = 10 * fraction + digit;
	}
	for (i64 i = size - 1; i < 29; i++)
		fraction *= 10;
	days = 365 * (year - 1970) + (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400;
	days += before[month - 1] + (leap && month > 2) + day - 1;
	return (days * 86400 + hour * 3600 + minute * 60 + second) * 1000000000 + fraction;
}

static inline int is_alphanumeric(u8 c)
{
	return (u8)((c | 32) - 'a') < 26 || (u8)(c - '0') < 10;
}

static inline int is_hex(u8 c)
{
	return (u8)(c - '0') < 10 || (u8)((c | 32) - 'a') < 6;
}

/* The bits of some ASCII characters beside letters and digits, as two words. */
#define BIT(c, word) ((c) >> 6 == (word) ? (u64)1 << ((c) & 63) : 0)
#define IN_PATH(w) \
	(BIT('-', w) | BIT('_', w) | BIT('.', w) | BIT('~', w) | BIT('$', w) | BIT('&', w) | \
	 BIT('+', w) | BIT(',', w) | BIT('/', w) | BIT(':', w) | BIT(';', w) | BIT('=', w) | \
	 BIT('@', w) | BIT('!', w) | BIT('\'', w) | BIT('(', w) | BIT(')', w) | BIT('*', w) | \
	 BIT('[', w) | BIT(']', w))

static inline int in_path(u8 c)
{
	static const u64 marks[2] = { IN_PATH(0), IN_PATH(1) };

	return is_alphanumeric(c) || (c < 128 && marks[c >> 6] >> (c & 63) & 1);
}

/* Whether parsers/go_url.py has it among the plain ones. */
static inline int is_plain_url(const u8 *url, i64 size)
{
	i64 at = 0, host;

	if (size >= 7 && same(url, (const u8 *)"http://\0", 7))
		at = 7;
	else if (size >= 8 && same(url, (const u8 *)"https://", 8))
		at = 8;
	if (at) {
		host = at;
		while (at < size && (is_alphanumeric(url[at]) || url[at] == '-' || url[at] == '_' ||
				     url[at] == '.' || url[at] == '~'))
			at++;
		if (at == host)
			return 0;
		if (at < size && url[at] == ':')
			for (at++; at < size && (u8)(url[at] - '0') < 10;)
				at++;
	}
	if (at >= size || url[at++] != '/' || (at < size && url[at] == '/'))
		return 0;
	while (at < size && url[at] != '?') {
		if (url[at] == '%') {
			if (size - at < 3 || !is_hex(url[at + 1]) || !is_hex(url[at + 2]))
				return 0;
			at += 3;
		} else if (in_path(url[at])) {
			at++;
		} else {
			return 0;
		}
	}
	for (at++; at < size; at++) /* a second question mark is unusual */
		if (url[at] < 0x20 || url[at] == 0x7F || url[at] == '#' || url[at] == '?')
			return 0;
	return 1;
}

/* A length or a count of at most two bytes behind a marker; -1 for all others. */
static inline i64 short_uint(struct cursor *record)
{
	const u8 *p = record->bytes + record->at;
	i64 left = record->end - record->at;

	if (left >= 1 && *p < 0x80) {
		record->at += 1;
		return *p;
	}
	if (left >= 2 && *p == 0xFF) {
		record->at += 2;
		return p[1];
	}
	if (left >= 3 && *p == 0xFE) {
		record->at += 3;
		return big16(p + 1);
	}
	return -1;
}

static inline int pass_text(struct cursor *record)
{
	i64 length = short_uint(record);

	if (length < 0 || length > record->end - record->at)
		return 0;
	record->at += length;
	return 1;
}

/* Steps over a list of texts. */
static inline int pass_texts(struct cursor *record)
{
	i64 count = short_uint(record);

	while (count > 0 && pass_text(record))
		count--;
	return !count;
}

/* Steps over a map from texts to lists of texts. */
static inline int pass_headers(struct cursor *record)
{
	i64 count = short_uint(record);

	while (count > 0 && pass_text(record) && pass_texts(record))
		count--;
	return !count;
}

static inline int are_hex(const u8 *at, int count, int *any)
{
	*any = 0;
	while (count--) {
		u8 c = *at++;

		if ((u8)(c - '0') > 9 && (u8)(c - 'a') > 5)
			return 0;
		*any |= c != '0';
	}
	return 1;
}

/* Whether a W3C traceparent is a valid one without anything behind it. */
static inline int is_trace(const u8 *text, i64 size)
{
	int any, version, flags;

	if (size != 55 || text[2] != '-' || text[35] != '-' || text[52] != '-')
		return 0;
	if (!are_hex(text + 3, 32, &any) || !any || !are_hex(text + 36, 16, &any) || !any ||
	    !are_hex(text, 2, &version) || !are_hex(text + 53, 2, &flags))
		return 0;
	if (text[0] == 'f' && text[1] == 'f')
		return 0;
	return version || !flags || (text[53] == '0' && text[54] <= '2');
}

/* The HTTP part at `record->at`, which ends the record: columns from F_LABELS on, from
 * F_REQUEST on as offsets in the record.
 */
static inline int http(const struct known *known, struct cursor *record, u32 type, i64 *found)
{
	u8 key[2 * LONGEST_SPAN + SLACK];
	const u8 *bytes = record->bytes;
	i64 end = record->end, begin = record->at, at = begin, head, url, length, count;
	i64 request = 0, request_end = 0, trace = 0, trace_end = 0;

	if (end - at < 2)
		return 0;
	if (bytes[at] == 1) /* responses have a code */
		at += bytes[at + 1] < 128 ? 2 : 258 - bytes[at + 1];
	if (end - at < 2)
		return 0;
	at += bytes[at + 1] + 3;
	head = at - begin;
	if (at >= end || head > LONGEST_SPAN)
		return 0;
	length = bytes[at++];
	if (length > 127) {
		if (length != 255 || at >= end)
			return 0;
		length = bytes[at++];
	}
	url = at;
	at += length;
	if (end - at < 2)
		return 0;
	length = bytes[at + 1] + 3; /* of the protocol, with a step before and behind it */
	if (length > LONGEST_SPAN || length >= end - at)
		return 0;
	if (!is_plain_url(bytes + url, at - url) && !find(known, bytes + url, at - url, URL))
		return 0;
	copy(key, bytes + begin, head);
	copy(key + head, bytes + at, length);
	found[F_LABELS] = find(known, key, head + length, HTTP | type << 8 | (u32)head << 16);
	if (!found[F_LABELS])
		return 0;
	at += length;
	count = bytes[at++];
	if (count > 127)
		return 0;
	while (count--) {
		const u8 *name = bytes + at + 1;
		i64 stop;
		int names_request, names_trace;

		if (at >= end)
			return 0;
		length = bytes[at];
		stop = at + 1 + length;
		if (length > 127 || end - stop < 2)
			return 0;
		names_request = length == 12 && same(name, (const u8 *)"X-Request-Id\0\0\0", 12);
		names_trace = length == 11 && same(name, (const u8 *)"Traceparent\0\0\0\0", 11);
		if (bytes[stop] == 1 && bytes[stop + 1] < 128) {
			at = stop + 2 + bytes[stop + 1];
			if (at > end)
				return 0;
			if (names_request) {
				request = stop + 2;
				request_end = at;
			} else if (names_trace) {
				trace = stop + 2;
				trace_end = at;
			}
			continue;
		}
		record->at = stop;
		if (names_request || names_trace || !pass_texts(record))
			return 0;
		at = record->at;
	}
	/* Missing and rejected headers; then the part ends, and the record. */
	for (i64 left = 2; at < end && bytes[at];) {
		if (bytes[at] > left)
			return 0;
		record->at = at + 1;
		if (!pass_headers(record))
			return 0;
		left -= bytes[at];
		at = record->at;
	}
	if (end - at != 2 || bytes[at] || bytes[at + 1])
		return 0;
	found[F_REQUEST] = request;
	found[F_REQUEST_END] = request_end;
	found[F_TRACE] = 0;
	if (type == REQUEST && trace_end != trace) {
		if (!is_trace(bytes + trace, trace_end - trace))
			return 0;
		found[F_TRACE] = trace + 3;
	}
	return 1;
}

static inline int dns(const struct known *known, struct cursor *record, u32 type, i64 *found)
{
	const u8 *bytes = record->bytes;
	i64 end = record->end, at = record->at;

	if (end - at < 2 || bytes[at] != 1 || bytes[at + 1] > 127)
		return 0;
	if (known->shape->skip_query)
		at += 2 + bytes[at + 1];
	if (at >= end)
		return 0;
	found[F_LABELS] = find(known, bytes + at, end - at, DNS | type << 8);
	found[F_REQUEST] = found[F_REQUEST_END] = found[F_TRACE] = 0;
	return found[F_LABELS] != 0;
}

/* A span of `size` bytes, to be added to a key. */
static inline int gather(u8 *key, i64 *used, struct cursor *record, i64 size)
{
	if (size >= record->end - record->at || size > LONGEST_SPAN)
		return 0;
	*used += copy(key + *used, record->bytes + record->at, size);
	record->at += size;
	return 1;
}

/* One record into `found`, offsets being those in the record and F_END where its part ends.
 * Returns where that begins, 0 when the record is to be decoded.
 */
static inline i64 walk(const struct known *known, struct cursor *record, i64 *found)
{
	const struct shape *shape = known->shape;
	u8 key[4 * LONGEST_SPAN + SLACK];
	const u8 *bytes = record->bytes;
	i64 end = record->end, used = 0, length, begin, left = 3;
	u32 number, version, type;

	if (end < 1 + shape->definitions + 3 || !shape->node ||
	    !same(bytes + 1, known->begin, shape->definitions))
		return 0;
	record->at = 1 + shape->definitions;
	if (bytes[record->at] != 0xFE ||
	    record->at + 3 + big16(bytes + record->at + 1) != end)
		return 0;
	record->at += 3;
	if (end - record->at <= shape->type_length ||
	    !gather(key, &used, record,
		    shape->type_length + 2 + bytes[record->at + shape->type_length]))
		return 0;
	length = bytes[record->at++];
	if (length > 127 || length >= end - record->at)
		return 0;
	found[F_TIME] = time_of(bytes + record->at, length);
	if (found[F_TIME] < 0)
		return 0;
	record->at += length;
	if (shape->node >= end - record->at ||
	    !same(bytes + record->at, known->begin + shape->definitions, shape->node))
		return 0;
	record->at += shape->node;
	if (end - record->at < 2 ||
	    !gather(key, &used, record, bytes[record->at + 1] + 3))
		return 0;
	found[F_SOURCE] = side(known, record, &found[F_SOURCE_PORT]);
	if (!found[F_SOURCE] || record->at >= end || bytes[record->at++] != 1)
		return 0;
	found[F_DESTINATION] = side(known, record, &found[F_DESTINATION_PORT]);
	if (!found[F_DESTINATION] || end - record->at < 4)
		return 0;
	length = bytes[record->at] == 1 ? 2 : 0; /* an address family stands first */
	if (!gather(key, &used, record, length + bytes[record->at + length + 1] + 2))
		return 0;
	/* Text and texts that are not shown; then comes the transport. */
	if (bytes[record->at] == 1) {
		left = 2;
		record->at++;
		length = short_uint(record);
		if (length < 0 || length >= end - record->at)
			return 0;
		record->at += length;
	}
	if (bytes[record->at] == left - 1) {
		left = 1;
		record->at++;
		if (!pass_texts(record) || record->at >= end)
			return 0;
	}
	if (bytes[record->at++] != left || end - record->at < 2)
		return 0;
	/* Step 3 leads to the reason of a drop. */
	if (!gather(key, &used, record, bytes[record->at + 1] == 3 ? 5 : 2))
		return 0;
	number = find(known, key, used, KIND);
	if (!number)
		return 0;
	version = known->entries[number].traits & 0xFF;
	type = known->entries[number].traits >> 8 & 0xFF;
	/* Numbers of meanings, of which each piece has two: a side one for each address family. */
	found[F_KIND] = 2 * number;
	found[F_SOURCE] = 2 * found[F_SOURCE] + (version == 2);
	found[F_DESTINATION] = 2 * found[F_DESTINATION] + (version == 2);
	begin = record->at;
	if (known->entries[number].traits >> 16 == L7_HTTP ? !http(known, record, type, found)
							    : !dns(known, record, type, found))
		return 0;
	found[F_LABELS] *= 2;
	found[F_END] = end - 1;
	return begin;
}

EXPORT i64 access_log_walk(const u8 *buffer, i64 count, const i64 *offset, const i64 *length,
			   const i64 *shape, const u8 *begin, const u8 *arena, const u8 *entries,
			   const u32 *slots, i64 *found, u8 *parts)
{
	const struct known known = { (const struct shape *)shape, begin, arena,
				     (const struct entry *)entries, slots };
	i64 used = 0;

	for (i64 i = 0; i < count; i++) {
		struct cursor record = { buffer + offset[i], length[i], 0 };
		i64 one[COLUMNS] = { 0 }, part = walk(&known, &record, one), moved = used - part;

		if (!part) {
			for (int column = 0; column < COLUMNS; column++)
				found[column * count + i] = 0;
			found[F_END * count + i] = used;
			continue;
		}
		copy(parts + used, record.bytes + part, one[F_END] - part);
		for (int column = F_END; column < COLUMNS; column++)
			if (one[column])
				one[column] += moved;
		used = one[F_END];
		for (int column = 0; column < COLUMNS; column++)
			found[column * count + i] = one[column];
	}
	return used;
}
