//! Which country a phone number belongs to, by its first digits: the ITU's country codes (E.164, annexed list), and within
//! those that several countries share their number plans, as the plans' administrators publish them.

/// Countries (ISO 3166-1 alpha-2; `XK` is in use for Kosovo) and how their numbers begin, without the `+`: of the beginnings that
/// fit a number, the longest counts.
const PLANS: &[(&str, &str)] = &[
    // North America (1). What is nobody else's below is the United States'; toll-free numbers are shared, and stand with them.
    ("US", "1"),
    (
        "CA",
        "1204 1226 1236 1249 1250 1257 1263 1289 1306 1343 1354 1365 1367 1368 1382 1403 1416 1418 1428 1431 1437 1438 1450 1460 1468 \
         1474 1506 1514 1519 1548 1579 1581 1584 1587 1600 1604 1613 1622 1633 1639 1644 1647 1655 1672 1677 1683 1688 1705 1709 1742 \
         1753 1778 1780 1782 1807 1819 1825 1867 1873 1879 1902 1905 1942",
    ),
    ("AG", "1268"),
    ("AI", "1264"),
    ("AS", "1684"),
    ("BB", "1246"),
    ("BM", "1441"),
    ("BS", "1242"),
    ("DM", "1767"),
    ("DO", "1809 1829 1849"),
    ("GD", "1473"),
    ("GU", "1671"),
    ("JM", "1658 1876"),
    ("KN", "1869"),
    ("KY", "1345"),
    ("LC", "1758"),
    ("MP", "1670"),
    ("MS", "1664"),
    ("PR", "1787 1939"),
    ("SX", "1721"),
    ("TC", "1649"),
    ("TT", "1868"),
    ("VC", "1784"),
    ("VG", "1284"),
    ("VI", "1340"),
    // Africa.
    ("EG", "20"),
    ("SS", "211"),
    ("MA", "212"),
    ("EH", "2125288 2125289"),
    ("DZ", "213"),
    ("TN", "216"),
    ("LY", "218"),
    ("GM", "220"),
    ("SN", "221"),
    ("MR", "222"),
    ("ML", "223"),
    ("GN", "224"),
    ("CI", "225"),
    ("BF", "226"),
    ("NE", "227"),
    ("TG", "228"),
    ("BJ", "229"),
    ("MU", "230"),
    ("LR", "231"),
    ("SL", "232"),
    ("GH", "233"),
    ("NG", "234"),
    ("TD", "235"),
    ("CF", "236"),
    ("CM", "237"),
    ("CV", "238"),
    ("ST", "239"),
    ("GQ", "240"),
    ("GA", "241"),
    ("CG", "242"),
    ("CD", "243"),
    ("AO", "244"),
    ("GW", "245"),
    ("IO", "246"),
    ("SH", "247 290"),
    ("SC", "248"),
    ("SD", "249"),
    ("RW", "250"),
    ("ET", "251"),
    ("SO", "252"),
    ("DJ", "253"),
    ("KE", "254"),
    ("TZ", "255"),
    ("UG", "256"),
    ("BI", "257"),
    ("MZ", "258"),
    ("ZM", "260"),
    ("MG", "261"),
    ("RE", "262"),
    ("YT", "262269 262639 2629398 2629399"),
    ("ZW", "263"),
    ("NA", "264"),
    ("MW", "265"),
    ("LS", "266"),
    ("BW", "267"),
    ("SZ", "268"),
    ("KM", "269"),
    ("ZA", "27"),
    ("ER", "291"),
    ("AW", "297"),
    ("FO", "298"),
    ("GL", "299"),
    // Europe.
    ("GR", "30"),
    ("NL", "31"),
    ("BE", "32"),
    ("FR", "33"),
    ("ES", "34"),
    ("GI", "350"),
    ("PT", "351"),
    ("LU", "352"),
    ("IE", "353"),
    ("IS", "354"),
    ("AL", "355"),
    ("MT", "356"),
    ("CY", "357"),
    ("FI", "358"),
    ("AX", "35818"),
    ("BG", "359"),
    ("HU", "36"),
    ("LT", "370"),
    ("LV", "371"),
    ("EE", "372"),
    ("MD", "373"),
    ("AM", "374"),
    ("BY", "375"),
    ("AD", "376"),
    ("MC", "377"),
    ("SM", "378"),
    ("VA", "379 3906698"),
    ("UA", "380"),
    ("RS", "381"),
    ("ME", "382"),
    ("XK", "383"),
    ("HR", "385"),
    ("SI", "386"),
    ("BA", "387"),
    ("MK", "389"),
    ("IT", "39"),
    ("RO", "40"),
    ("CH", "41"),
    ("CZ", "420"),
    ("SK", "421"),
    ("LI", "423"),
    ("AT", "43"),
    ("GB", "44"),
    ("GG", "441481 447781 447839 4479111 4479117"),
    ("JE", "441534 447509 4477003 4477007 4477008 447797 447829 447937"),
    ("IM", "441624 4474576 447524 4476240 4476241 4476242 4476243 4476244 4476246 4476248 4476249 447924"),
    ("DK", "45"),
    ("SE", "46"),
    ("NO", "47"),
    ("SJ", "4779"),
    ("PL", "48"),
    ("DE", "49"),
    // Central and South America.
    ("FK", "500"),
    ("BZ", "501"),
    ("GT", "502"),
    ("SV", "503"),
    ("HN", "504"),
    ("NI", "505"),
    ("CR", "506"),
    ("PA", "507"),
    ("PM", "508"),
    ("HT", "509"),
    ("PE", "51"),
    ("MX", "52"),
    ("CU", "53"),
    ("AR", "54"),
    ("BR", "55"),
    ("CL", "56"),
    ("CO", "57"),
    ("VE", "58"),
    ("GP", "590"),
    ("BO", "591"),
    ("GY", "592"),
    ("EC", "593"),
    ("GF", "594"),
    ("PY", "595"),
    ("MQ", "596"),
    ("SR", "597"),
    ("UY", "598"),
    ("CW", "599"),
    ("BQ", "5993 5994 5997"),
    // South-east Asia and Oceania.
    ("MY", "60"),
    ("AU", "61"),
    ("CC", "6189162"),
    ("CX", "6189164"),
    ("ID", "62"),
    ("PH", "63"),
    ("NZ", "64"),
    ("SG", "65"),
    ("TH", "66"),
    ("TL", "670"),
    ("NF", "6723"),
    ("AQ", "6721"),
    ("BN", "673"),
    ("NR", "674"),
    ("PG", "675"),
    ("TO", "676"),
    ("SB", "677"),
    ("VU", "678"),
    ("FJ", "679"),
    ("PW", "680"),
    ("WF", "681"),
    ("CK", "682"),
    ("NU", "683"),
    ("WS", "685"),
    ("KI", "686"),
    ("NC", "687"),
    ("TV", "688"),
    ("PF", "689"),
    ("TK", "690"),
    ("FM", "691"),
    ("MH", "692"),
    // Russia and Kazakhstan share 7.
    ("RU", "7"),
    ("KZ", "76 77"),
    // East Asia.
    ("JP", "81"),
    ("KR", "82"),
    ("VN", "84"),
    ("KP", "850"),
    ("HK", "852"),
    ("MO", "853"),
    ("KH", "855"),
    ("LA", "856"),
    ("CN", "86"),
    ("BD", "880"),
    ("TW", "886"),
    // The Middle East, and South and Central Asia.
    ("TR", "90"),
    ("IN", "91"),
    ("PK", "92"),
    ("AF", "93"),
    ("LK", "94"),
    ("MM", "95"),
    ("MV", "960"),
    ("LB", "961"),
    ("JO", "962"),
    ("SY", "963"),
    ("IQ", "964"),
    ("KW", "965"),
    ("SA", "966"),
    ("YE", "967"),
    ("OM", "968"),
    ("PS", "970"),
    ("AE", "971"),
    ("IL", "972"),
    ("BH", "973"),
    ("QA", "974"),
    ("BT", "975"),
    ("MN", "976"),
    ("NP", "977"),
    ("IR", "98"),
    ("TJ", "992"),
    ("TM", "993"),
    ("AZ", "994"),
    ("GE", "995"),
    ("KG", "996"),
    ("UZ", "998"),
];

/// The country of a number in E.164 form; `None` where it is none's (satellite and international networks, codes not assigned).
#[must_use]
pub fn of_phone(phone: &str) -> Option<&'static str> {
    let digits = phone.strip_prefix('+')?;
    let mut best: Option<(usize, &'static str)> = None;
    for (country, beginnings) in PLANS {
        for beginning in beginnings.split_ascii_whitespace() {
            if digits.starts_with(beginning) && best.is_none_or(|(length, _)| beginning.len() > length) {
                best = Some((beginning.len(), country));
            }
        }
    }
    best.map(|(_, country)| country)
}

/// Do numbers of this country (ISO 3166-1 alpha-2, upper case) have a beginning that tells them?
#[must_use]
pub fn is_known(country: &str) -> bool {
    PLANS.iter().any(|(known, _)| *known == country)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_tells_its_country_also_where_several_share_a_code() {
        for (phone, country) in [
            ("+254722000000", "KE"),
            ("+12125550123", "US"),
            ("+18005550123", "US"),
            ("+14165550123", "CA"),
            ("+16045550123", "CA"),
            ("+18765550123", "JM"),
            ("+18095550123", "DO"),
            ("+17875550123", "PR"),
            ("+79161234567", "RU"),
            ("+77011234567", "KZ"),
            ("+76001234567", "KZ"),
            ("+447400123456", "GB"),
            ("+447911123456", "GG"),
            ("+447911223456", "GB"),
            ("+447700900123", "GB"),
            ("+447700300123", "JE"),
            ("+441481960194", "GG"),
            ("+447797712345", "JE"),
            ("+441624756789", "IM"),
            ("+447924123456", "IM"),
            ("+393123456789", "IT"),
            ("+390669812345", "VA"),
            ("+4741234567", "NO"),
            ("+4779123456", "SJ"),
            ("+358412345678", "FI"),
            ("+3581812345678", "AX"),
            ("+262692123456", "RE"),
            ("+262639012345", "YT"),
            ("+5999123456", "CW"),
            ("+5993181234", "BQ"),
            ("+212650123456", "MA"),
            ("+61891621234", "CC"),
        ] {
            assert_eq!(of_phone(phone), Some(country), "{phone}");
        }
    }

    #[test]
    fn a_number_of_no_country_has_none() {
        for phone in ["+8821234567", "+8835100123456", "+2101234567", "+99912345678", "254722000000", ""] {
            assert_eq!(of_phone(phone), None, "{phone}");
        }
    }

    #[test]
    fn no_beginning_is_listed_twice_and_countries_are_codes() {
        let mut all: Vec<&str> = PLANS.iter().flat_map(|(_, beginnings)| beginnings.split_ascii_whitespace()).collect();
        let listed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), listed);
        assert!(listed > 280, "{listed}");
        for (country, _) in PLANS {
            assert!(country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase()) && is_known(country), "{country}");
        }
        assert!(!is_known("ke") && !is_known("ZZ"));
    }
}
