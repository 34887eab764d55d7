#include "image/build_guest.h"

/* Perl, because the smallest Debian has it and neither Python nor a parser of YAML. It understands seeds in JSON, which
 * are what Caisson writes, and scripts; whoever wants all of cloud-init installs it (--with-cloud-init). */
static const char guest_first_boot[] =
    "#!/usr/bin/perl\n"
    "# First boot of a VM that Caisson made: host name, users, keys and commands from the NoCloud seed (a disk with "
    "the\n"
    "# label cidata). What is done once is done again when the instance-id changes: this disk is another VM's now.\n"
    "use strict;\n"
    "use warnings;\n"
    "my ($state, $seed) = ('/var/lib/caisson', '/run/caisson-seed');\n"
    "sub say_ { print STDERR \"caisson-first-boot: @_\\n\" }\n"
    "sub slurp { open(my $f, '<', $_[0]) or return ''; local $/; my $t = <$f>; defined $t ? $t : '' }\n"
    "sub spew { my ($p, $t, $m) = @_; open(my $f, '>', $p) or return say_(\"$p: $!\"); print $f $t; close $f;\n"
    "    chmod $m, $p if defined $m }\n"
    "sub run { system(@_) == 0 or say_(\"failed: @_\") }\n"
    "# ---- JSON ----\n"
    "my %plain = (n => \"\\n\", t => \"\\t\", r => \"\\r\", b => \"\\b\", f => \"\\f\");\n"
    "sub value {\n"
    "    my ($t, $depth) = @_;\n"
    "    die \"nested too deep\\n\" if $depth > 64;\n"
    "    $$t =~ /\\G\\s+/gc;\n"
    "    if ($$t =~ /\\G\\{\\s*/gc) {\n"
    "        my %o;\n"
    "        return \\%o if $$t =~ /\\G\\}/gc;\n"
    "        do { my $k = value($t, $depth + 1); $$t =~ /\\G\\s*:/gc or die \"no colon\\n\"; $o{$k} = value($t, $depth "
    "+ 1) }\n"
    "            while $$t =~ /\\G\\s*,/gc;\n"
    "        $$t =~ /\\G\\s*\\}/gc or die \"no brace\\n\";\n"
    "        return \\%o;\n"
    "    }\n"
    "    if ($$t =~ /\\G\\[\\s*/gc) {\n"
    "        my @a;\n"
    "        return \\@a if $$t =~ /\\G\\]/gc;\n"
    "        do { push @a, value($t, $depth + 1) } while $$t =~ /\\G\\s*,/gc;\n"
    "        $$t =~ /\\G\\s*\\]/gc or die \"no bracket\\n\";\n"
    "        return \\@a;\n"
    "    }\n"
    "    if ($$t =~ /\\G\"((?:[^\"\\\\]|\\\\.)*)\"/gcs) {\n"
    "        my $s = $1;\n"
    "        $s =~ s{\\\\(?:u([0-9a-fA-F]{4})|(.))}{defined $1 ? do { my $c = chr(hex $1); utf8::encode($c); $c }\n"
    "            : exists $plain{$2} ? $plain{$2} : $2}gse;\n"
    "        return $s;\n"
    "    }\n"
    "    return $1 eq 'true' ? 1 : $1 eq 'false' ? 0 : undef if $$t =~ /\\G(true|false|null)/gc;\n"
    "    return $1 if $$t =~ /\\G(-?[0-9][0-9.eE+-]*)/gc;\n"
    "    die \"not JSON\\n\";\n"
    "}\n"
    "sub document {\n"
    "    my ($name) = @_;\n"
    "    my $text = slurp(\"$seed/$name\");\n"
    "    return {} if $text !~ /\\S/ || $text =~ /^#!/;\n"
    "    $text =~ s/^\\s*#.*\\n//mg;\n"
    "    return {} if $text !~ /\\S/;\n"
    "    my $v = eval { value(\\$text, 0) };\n"
    "    return $v if ref $v eq 'HASH';\n"
    "    say_(\"$name is not JSON (YAML wants an image built with --with-cloud-init): not used\");\n"
    "    return {};\n"
    "}\n"
    "sub list { my ($v) = @_; ref $v eq 'ARRAY' ? grep({ defined } @$v) : defined $v && $v ne '' ? ($v) : () }\n"
    "# ---- users ----\n"
    "sub user {\n"
    "    my ($name, $u) = @_;\n"
    "    return say_(\"user '$name': no such name is possible\") if $name !~ /^[a-z_][a-z0-9_-]{0,31}$/;\n"
    "    run('useradd', '-m', '-s', $u->{shell} || '/bin/bash', $name) if !defined getpwnam($name);\n"
    "    my ($uid, $gid, $home) = (getpwnam($name))[2, 3, 7];\n"
    "    return if !defined $uid;\n"
    "    my $hash = $u->{hashed_passwd} || $u->{passwd};\n"
    "    run('usermod', '-p', $hash, $name) if defined $hash && $hash !~ /[:\\n]/;\n"
    "    spew(\"/etc/sudoers.d/caisson-$name\", join('', map { \"$name $_\\n\" } list($u->{sudo})), 0440) if "
    "$u->{sudo};\n"
    "    run('usermod', '-a', '-G', $_, $name) for map { split /\\s*,\\s*/ } list($u->{groups});\n"
    "    my @keys = list($u->{ssh_authorized_keys}) or return;\n"
    "    mkdir \"$home/.ssh\", 0700;\n"
    "    spew(\"$home/.ssh/authorized_keys\", join('', map { \"$_\\n\" } @keys), 0600);\n"
    "    chown $uid, $gid, \"$home/.ssh\", \"$home/.ssh/authorized_keys\";\n"
    "}\n"
    "# ---- the seed ----\n"
    "my $device = '';\n"
    "for (1 .. 20) {\n"
    "    chomp($device = `blkid -L cidata 2>/dev/null` || '');\n"
    "    last if $device || !-e '/dev/vdb';\n"
    "    select undef, undef, undef, 0.1;\n"
    "}\n"
    "mkdir $_, 0700 for $state, $seed;\n"
    "if ($device) { run('mount', '-o', 'ro', $device, $seed) } else { say_('no seed') }\n"
    "my $meta = document('meta-data');\n"
    "my $config = { %{ document('vendor-data') }, %{ document('user-data') } };\n"
    "my $script = slurp(\"$seed/user-data\");\n"
    "run('umount', $seed) if $device;\n"
    "my $host = $config->{hostname} || $meta->{'local-hostname'} || '';\n"
    "if ($host =~ /^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$/ && slurp('/etc/hostname') ne \"$host\\n\") {\n"
    "    spew('/etc/hostname', \"$host\\n\", 0644);\n"
    "    spew('/etc/hosts', \"127.0.0.1 localhost\\n127.0.1.1 $host\\n::1 localhost ip6-localhost\\n\", 0644);\n"
    "    spew('/proc/sys/kernel/hostname', $host);\n"
    "}\n"
    "my $id = $meta->{'instance-id'} || 'none';\n"
    "exit 0 if slurp(\"$state/instance-id\") eq \"$id\\n\";\n"
    "unlink glob('/etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub');\n"
    "run('ssh-keygen', '-q', '-A');\n"
    "my @keys = (list($meta->{'public-keys'}), list($config->{ssh_authorized_keys}));\n"
    "my @users = grep { ref $_ eq 'HASH' && $_->{name} } list($config->{users});\n"
    "push @users, { name => 'debian', sudo => 'ALL=(ALL) NOPASSWD:ALL' } if !@users && (@keys || "
    "$config->{password});\n"
    "$users[0]{hashed_passwd} = $config->{password} if @users && ($config->{password} || '') =~ /^\\$/;\n"
    "$users[0]{ssh_authorized_keys} = [list($users[0]{ssh_authorized_keys}), @keys] if @users;\n"
    "user($_->{name}, $_) for @users;\n"
    "spew('/etc/ssh/sshd_config.d/caisson.conf', \"PasswordAuthentication \" . ($config->{ssh_pwauth} ? 'yes' : 'no') "
    ". \"\\n\");\n"
    "for my $f (grep { ref $_ eq 'HASH' && $_->{path} } list($config->{write_files})) {\n"
    "    my $p = $f->{path};\n"
    "    my $dir = $p =~ s{/[^/]*$}{}r;\n"
    "    run('mkdir', '-p', $dir) if $dir;\n"
    "    spew($p, defined $f->{content} ? $f->{content} : '', oct($f->{permissions} || '0644'));\n"
    "}\n"
    "for my $c (list($config->{bootcmd}), list($config->{runcmd})) { ref $c eq 'ARRAY' ? run(@$c) : run('sh', '-c', "
    "$c) }\n"
    "if ($script =~ /^#!/) { spew(\"$state/user-script\", $script, 0700); run(\"$state/user-script\") }\n"
    "spew(\"$state/instance-id\", \"$id\\n\", 0644);\n";

static const char guest_unit[] = "[Unit]\n"
                                 "Description=First boot of a VM of Caisson\n"
                                 "After=local-fs.target systemd-udev-trigger.service\n"
                                 "Before=ssh.service systemd-user-sessions.service getty.target\n"
                                 "[Service]\n"
                                 "Type=oneshot\n"
                                 "RemainAfterExit=yes\n"
                                 "ExecStart=/usr/lib/caisson/first-boot\n"
                                 "[Install]\n"
                                 "WantedBy=multi-user.target\n";

static const char guest_agent[] = "[Unit]\n"
                                  "Description=Caisson guest agent\n"
                                  "ConditionPathExists=/usr/lib/caisson/caisson-agent\n"
                                  "[Service]\n"
                                  "ExecStartPre=-/sbin/modprobe vmw_vsock_virtio_transport\n"
                                  "ExecStart=/usr/lib/caisson/caisson-agent\n"
                                  "Restart=always\n"
                                  "KillMode=process\n"
                                  "[Install]\n"
                                  "WantedBy=multi-user.target\n";

static const char guest_network[] = "[Match]\n"
                                    "Type=ether\n"
                                    "[Network]\n"
                                    "DHCP=yes\n"
                                    "[DHCPv4]\n"
                                    "ClientIdentifier=mac\n";

/* Only what a guest of Caisson boots from: a small initrd is unpacked faster. */
static const char guest_initrd_hook[] = "#!/bin/sh\n"
                                        "[ \"$1\" != prereqs ] || exit 0\n"
                                        ". /usr/share/initramfs-tools/hook-functions\n"
                                        "manual_add_modules virtio_pci virtio_blk ext4 crc32c_generic crc32c-intel\n"
                                        "for m in virtio_pci virtio_blk crc32c_generic ext4; do force_load $m; done\n";

/* check: the links are what `systemctl enable` makes. */
const struct build_guest_file build_guest_files[] = {
    /* The locale that needs no package; without this cloud-init wants another one and calls itself failed. */
    { "etc/cloud/cloud.cfg.d/90-caisson.cfg", 0644, "locale: C.UTF-8\n", NULL, GUEST_CLOUD_INIT },
    { "etc/fstab", 0644, "/dev/vda / ext4 defaults,x-systemd.growfs 0 1\n", NULL, GUEST_ALWAYS },
    { "etc/hostname", 0644, "caisson\n", NULL, GUEST_ALWAYS },
    { "etc/hosts", 0644, "127.0.0.1 localhost\n127.0.1.1 caisson\n::1 localhost ip6-localhost\n", NULL, GUEST_ALWAYS },
    { "etc/initramfs-tools/conf.d/caisson", 0644, "MODULES=list\nCOMPRESS=zstd\nFSTYPE=ext4\n", NULL, GUEST_ALWAYS },
    { "etc/initramfs-tools/hooks/caisson", 0755, guest_initrd_hook, NULL, GUEST_ALWAYS },
    { "etc/systemd/network/80-caisson.network", 0644, guest_network, NULL, GUEST_OWN_FIRST_BOOT },
    { "etc/systemd/system/caisson-agent.service", 0644, guest_agent, NULL, GUEST_ALWAYS },
    { "etc/systemd/system/multi-user.target.wants/caisson-agent.service", 0, NULL,
      "/etc/systemd/system/caisson-agent.service", GUEST_ALWAYS },
    { "etc/systemd/system/caisson-first-boot.service", 0644, guest_unit, NULL, GUEST_OWN_FIRST_BOOT },
    { "etc/systemd/system/multi-user.target.wants/caisson-first-boot.service", 0, NULL,
      "/etc/systemd/system/caisson-first-boot.service", GUEST_OWN_FIRST_BOOT },
    { "etc/systemd/system/multi-user.target.wants/systemd-networkd.service", 0, NULL,
      "/lib/systemd/system/systemd-networkd.service", GUEST_ALWAYS },
    { "usr/lib/caisson/first-boot", 0755, guest_first_boot, NULL, GUEST_OWN_FIRST_BOOT },
};
const size_t build_guest_n_files = ARRAY_SIZE(build_guest_files);
