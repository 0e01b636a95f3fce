package main

import (
	"bytes"
	"fmt"
	"testing"

	"holdfast/broker/auth/servers"
	"holdfast/broker/mqtt"
)

// TestDoorMySQL and TestDoorPostgres: EMQX 4's tables, its order of rows, its superusers, its literal topics, its rules by address.

func TestDoorMySQL(t *testing.T)    { t.Parallel(); doorSQL(t, servers.MariaDB(t, nil)) }
func TestDoorPostgres(t *testing.T) { t.Parallel(); doorSQL(t, servers.PostgreSQL(t, nil)) }

func doorSQL(t *testing.T, d *servers.Database) {
	hash := func(password string) string {
		if d.Kind == "mysql" {
			return fmt.Sprintf("sha2(concat('NaCl', '%s'), 256)", password)
		}
		return fmt.Sprintf("encode(sha256(convert_to(concat('NaCl', '%s'), 'UTF8')), 'hex')", password)
	}
	d.SQL(t, fmt.Sprintf(`INSERT INTO mqtt_user (username, password, salt, is_superuser) VALUES ('ann', %s, 'NaCl', %s), ('root', %s, 'NaCl', %s);
		DELETE FROM mqtt_acl;
		INSERT INTO mqtt_acl (id, allow, ipaddr, username, clientid, access, topic) VALUES
			(1, 0, NULL, '$all', NULL, 3, '#'), (2, 1, NULL, 'ann', NULL, 2, 'up/%%c'), (3, 1, NULL, 'ann', NULL, 1, 'down/#'), (4, 1, NULL, '$all', NULL, 1, 'keep/#'),
			(5, 1, NULL, NULL, 'c-2', 3, 'id/%%u/#'), (6, 1, NULL, 'ann', NULL, 1, 'eq lit/#'), (7, 1, '127.0.0.1', NULL, NULL, 2, 'here/#'), (8, 0, '127.0.0.1', NULL, NULL, 2, 'here/not')`,
		hash("ann-secret"), d.Bool(false), hash("root-secret"), d.Bool(true)))
	k := &kept{
		tables:  fmt.Sprintf("[[auth]]\ntype = %q\n%spassword_hash = \"salt,sha256\"\ntimeout = \"1s\"\nrefresh = \"1s\"\n", d.Kind, d.Settings),
		granted: 2,
		more: func(t *testing.T, door *authDoor) {
			ann := door.enter("c-2", "ann", "ann-secret", nil)
			ann.may(true, "id/ann/x", 2, true, 1000, "")
			ann.may(false, "id/eve/x", 1, false, 1, "not authorized")
			ann.may(true, "here/a", 1, false, 1, "")
			ann.may(false, "here/not", 1, false, 1, "not authorized")
			if codes := ann.subscribe("lit/#", "lit/a", "lit/+", "id/ann/#"); !bytes.Equal(codes, []byte{2, mqtt.NotAuthorized, mqtt.NotAuthorized, 2}) {
				t.Errorf("literal: % x", codes)
			}
			root := door.enter("c-9", "root", "root-secret", nil)
			root.may(true, "up/anything", 2, true, 1000, "")
			if codes := root.subscribe("#", "$SYS/#"); !bytes.Equal(codes, []byte{2, 2}) {
				t.Errorf("a superuser: % x", codes)
			}
		},
		take: func() { d.SQL(t, "UPDATE mqtt_acl SET allow = 0 WHERE id = 3") }, give: func() { d.SQL(t, "UPDATE mqtt_acl SET allow = 1 WHERE id = 3") },
		another: func() { d.SQL(t, "UPDATE mqtt_user SET password = "+hash("another")+" WHERE username = 'ann'") },
		hang:    d.Hang, goOn: d.GoOn, die: d.Die, back: func() { d.Start(); d.Ready() },
	}
	k.throughTheDoor(t)
	d.SQL(t, "UPDATE mqtt_user SET password = "+hash("ann-secret")+" WHERE username = 'ann'")
	k.lastKnown(t)
}
